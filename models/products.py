"""Matrix products with very many columns, made a tile of columns at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from models.devices import choices


def entries_at_once(device: torch.device) -> int:
    """Return how many entries of a product are made on a device before they are used."""
    return choices(device).entries_at_once


def product(one: Tensor, others: Tensor) -> Tensor:
    """Return the product (n, M) of (n, d) with (M, d), which whole is a fifth slower on a processor."""
    out = one.new_empty(len(one), len(others))
    for tile in tiles(out):
        torch.mm(one, others[tile].T, out=out[:, tile])
    return out


def raise_to_products(best: Tensor, sets: Sequence[Tensor], others: Tensor) -> None:
    """Raise every entry of `best` (n, M) to the largest of the products of `sets` with `others`.

    Args:
        best: (n, M), changed in place.
        sets: several (n, d).
        others: (M, d).
    """
    for tile in tiles(best):
        part, highest = others[tile], best[:, tile]
        made = torch.empty_like(highest, memory_format=torch.contiguous_format)
        for one in sets:
            torch.mm(one, part.T, out=made)
            torch.maximum(highest, made, out=highest)


def tiles(table: Tensor) -> Iterator[slice]:
    """Yield the columns of a table (n, M) that are worked on together: no more than `entries_at_once`."""
    rows, count = table.shape
    wide = max(64, entries_at_once(table.device) // max(1, rows))
    for first in range(0, count, wide):
        yield slice(first, first + wide)
