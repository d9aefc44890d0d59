"""Matrix products with very many columns, made a tile of columns at a time, and how much is made at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from models.devices import choices

HELD_ENTRIES = 2**29
"""Entries that a step on an accelerator may hold, all of its tensors together: 2 GiB."""
ALIGNED = 128
"""Columns that an accelerator makes of a product together; a tile of some more takes as long as one of twice
as many."""


def entries_at_once(device: torch.device) -> int:
    """Return how many entries of a product are made on a device before they are used."""
    return choices(device).entries_at_once


def rows_at_once(entries: int, device: torch.device, *, on_cpu: int) -> int:
    """Return how many rows are worked on together, each of which needs so many entries at a time.

    A processor takes `on_cpu`, few enough for its cache. An accelerator has to be told of every operation,
    which takes longer than a small one: there it is as many as `HELD_ENTRIES` allow.
    """
    if device.type == "cpu":
        return on_cpu
    return max(1, HELD_ENTRIES // max(1, entries))


def product(one: Tensor, others: Tensor) -> Tensor:
    """Return the product (n, M) of (n, d) with (M, d), which whole is a fifth slower on a processor."""
    out = one.new_empty(len(one), len(others))
    for tile in tiles(len(one), len(others), out.device):
        torch.mm(one, others[tile].T, out=out[:, tile])
    return out


def raise_to_products(best: Tensor, sets: Tensor, others: Tensor) -> None:
    """Raise every entry of `best` (n, M) to the largest of the products of `sets` with `others`.

    Args:
        best: (n, M), changed in place.
        sets: (k, n, d).
        others: (M, d).
    """
    if best.device.type == "cpu":
        _raise_one_by_one(best, sets, others)
    else:
        _raise_together(best, sets, others)


def _raise_one_by_one(best: Tensor, sets: Tensor, others: Tensor) -> None:
    """Make a product of one set and use it while it is in the cache."""
    for tile in tiles(len(best), len(others), best.device):
        part, highest = others[tile], best[:, tile]
        made = torch.empty_like(highest, memory_format=torch.contiguous_format)
        for one in sets:
            torch.mm(one, part.T, out=made)
            torch.maximum(highest, made, out=highest)


def _raise_together(best: Tensor, sets: Tensor, others: Tensor) -> None:
    """Make the products of all sets at once: fewer operations, and `best` is read and written once."""
    rows = sets.flatten(0, 1)
    for tile in tiles(len(rows), len(others), best.device):
        highest = best[:, tile]
        made = (rows @ others[tile].T).unflatten(0, sets.shape[:2])
        torch.maximum(highest, made.amax(dim=0), out=highest)


def tiles(rows: int, count: int, device: torch.device) -> Iterator[slice]:
    """Yield the columns of a table that are worked on together: no more than `entries_at_once` of it."""
    wide = max(64, entries_at_once(device) // max(1, rows))
    if device.type != "cpu" and wide < count:
        wide = max(ALIGNED, wide - wide % ALIGNED)
    for first in range(0, count, wide):
        yield slice(first, first + wide)
