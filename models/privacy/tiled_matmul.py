"""Matrix products with very many columns, computed in tiles of columns, and the sizes of the tiles."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from models.devices import choices

HELD_ENTRIES = 2**29
"""Largest number of entries of all tensors of a step on an accelerator: 2 GiB."""
ALIGNED = 128
"""Columns of a product that an accelerator computes together. A tile with a few more takes as long as one
with twice as many."""


def entries_at_once(device: torch.device) -> int:
    """Return how many entries of a product a device computes before they are used."""
    return choices(device).entries_at_once


def rows_at_once(entries: int, device: torch.device, *, on_cpu: int) -> int:
    """Return how many rows to process together if each needs `entries` entries at a time.

    On the CPU this is `on_cpu`, small enough for its cache. On an accelerator, launching an operation takes
    longer than a small operation itself, so it is as many rows as `HELD_ENTRIES` allows.
    """
    if device.type == "cpu":
        return on_cpu
    return max(1, HELD_ENTRIES // max(1, entries))


def product(one: Tensor, others: Tensor) -> Tensor:
    """Return the product (n, M) of (n, d) with (M, d), in tiles: as a whole it is a fifth slower on a CPU."""
    out = one.new_empty(len(one), len(others))
    for tile in tiles(len(one), len(others), out.device):
        torch.mm(one, others[tile].T, out=out[:, tile])
    return out


def raise_to_products(best: Tensor, sets: Tensor, others: Tensor) -> None:
    """Replace every entry of `best` (n, M) by the largest product of `sets` with `others`, if larger.

    Args:
        best: (n, M), modified in place.
        sets: (k, n, d).
        others: (M, d).
    """
    if best.device.type == "cpu":
        _raise_one_by_one(best, sets, others)
    else:
        _raise_together(best, sets, others)


def _raise_one_by_one(best: Tensor, sets: Tensor, others: Tensor) -> None:
    """Compute the product of one set and use it while it is in the cache."""
    for tile in tiles(len(best), len(others), best.device):
        part, highest = others[tile], best[:, tile]
        made = torch.empty_like(highest, memory_format=torch.contiguous_format)
        for one in sets:
            torch.mm(one, part.T, out=made)
            torch.maximum(highest, made, out=highest)


def _raise_together(best: Tensor, sets: Tensor, others: Tensor) -> None:
    """Compute the products of all sets at once: fewer operations, and `best` is read and written once."""
    rows = sets.flatten(0, 1)
    for tile in tiles(len(rows), len(others), best.device):
        highest = best[:, tile]
        made = (rows @ others[tile].T).unflatten(0, sets.shape[:2])
        torch.maximum(highest, made.amax(dim=0), out=highest)


def tiles(rows: int, count: int, device: torch.device) -> Iterator[slice]:
    """Yield slices of the columns that are processed together, of at most `entries_at_once` entries."""
    wide = max(64, entries_at_once(device) // max(1, rows))
    if device.type != "cpu" and wide < count:
        wide = max(ALIGNED, wide - wide % ALIGNED)
    for first in range(0, count, wide):
        yield slice(first, first + wide)
