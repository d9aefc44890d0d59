"""Pairs of scans whose signatures are alike, found in bounded memory."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Floats, Ints

SIMILARITY = 0.92
"""Cosine of two signatures from which a pair is looked at. Of 600 radiographs that were cropped by 3 %,
brightened, and compressed again, 99 % reach it; of 17 million pairs of different patients, 0.03 %."""

PARTNERS = 2
"""Most candidates a scan brings in: its most similar ones among those after it."""

CELL_SCANS = 32_768
"""Up to this many scans every pair is compared; beyond, only scans of neighbouring cells."""

PROBES = 8
"""Cells in which a scan looks for partners."""

_BLOCK = 512
_HELD = 16_384

Pairs = Ints


def candidate_pairs(
    signatures: npt.NDArray[np.int8], *, cell_scans: int = CELL_SCANS, similarity: float = SIMILARITY
) -> Pairs:
    """Return pairs of rows with similar signatures.

    Up to `cell_scans` rows, all pairs are compared by blocks of a matrix product. Beyond, rows are assigned
    to the nearest of about sqrt(N) of them (an inverted file: Sivic and Zisserman, ICCV 2003) and compared
    with the rows of the `PROBES` nearest cells, so that the work grows as N to the power 1.5.

    Args:
        signatures: (N, D) int8; rows of zeros have no partners.
        cell_scans: see `CELL_SCANS`.
        similarity: smallest cosine.

    Returns:
        (M, 2), first < second, sorted; at most `PARTNERS` for each first row.
    """
    usable = np.flatnonzero(signatures.any(axis=1))
    best = _Best(len(signatures))
    if len(usable) <= cell_scans:
        for start in range(0, len(usable), _BLOCK):
            rows = usable[start : start + _BLOCK]
            _compare(signatures, rows, usable[start:], similarity, best)
    else:
        for members, visitors in _cells(signatures, usable):
            for start in range(0, len(visitors), _BLOCK):
                _compare(signatures, visitors[start : start + _BLOCK], members, similarity, best)
    return best.pairs()


def similarities(signatures: npt.NDArray[np.int8], pairs: Pairs) -> Floats:
    """Return the cosine (M,) of the signatures of pairs (M, 2)."""
    cosine = np.empty(len(pairs))
    for start in range(0, len(pairs), _BLOCK):
        (left, left_length), (right, right_length) = (
            _unpacked(signatures, rows) for rows in pairs[start : start + _BLOCK].T
        )
        lengths = np.maximum(left_length * right_length, 1e-9)
        cosine[start : start + _BLOCK] = np.einsum("md,md->m", left, right) / lengths
    return cosine


def _compare(
    signatures: npt.NDArray[np.int8],
    rows: Ints,
    others: Ints,
    similarity: float,
    best: _Best,
) -> None:
    left, left_length = _unpacked(signatures, rows)
    for start in range(0, len(others), _BLOCK):
        columns = others[start : start + _BLOCK]
        right, right_length = _unpacked(signatures, columns)
        products = left @ right.T
        # Lengths differ by rounding only: a loose bound first, the exact cosine for what is left.
        bound = np.float32(similarity) * left_length.min() * right_length.min()
        at = np.flatnonzero(products.ravel() > bound)
        i, j = at // len(columns), at % len(columns)
        cosine = products[i, j] / (left_length[i] * right_length[j])
        first, second = rows[i], columns[j]
        keep = (cosine > np.float32(similarity)) & (first != second)
        best.add(np.minimum(first[keep], second[keep]), np.maximum(first[keep], second[keep]), cosine[keep])


def _unpacked(
    signatures: npt.NDArray[np.int8], rows: Ints
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    values = signatures[rows].astype(np.float32)
    return values, np.sqrt(np.square(values).sum(axis=1))


def _cells(signatures: npt.NDArray[np.int8], usable: Ints) -> Iterator[tuple[Ints, Ints]]:
    """Yield (members, visitors) of each cell: rows nearest to its centre, and rows that look into it."""
    count = int(np.ceil(np.sqrt(len(usable))))
    centres, _ = _unpacked(signatures, usable[np.linspace(0, len(usable) - 1, count).astype(np.int64)])
    probes = np.empty((len(usable), min(PROBES, count)), dtype=np.int32)
    for start in range(0, len(usable), _BLOCK):
        values, _ = _unpacked(signatures, usable[start : start + _BLOCK])
        near = np.argsort(-(values @ centres.T), axis=1, kind="stable")[:, : probes.shape[1]]
        probes[start : start + _BLOCK] = near
    home = np.argsort(probes[:, 0], kind="stable")
    home_ends = np.cumsum(np.bincount(probes[:, 0], minlength=count))
    visits = np.argsort(probes.ravel(), kind="stable") // probes.shape[1]
    visit_ends = np.cumsum(np.bincount(probes.ravel(), minlength=count))
    for cell in range(count):
        members = home[home_ends[cell - 1] if cell else 0 : home_ends[cell]]
        visitors = visits[visit_ends[cell - 1] if cell else 0 : visit_ends[cell]]
        if len(members):
            yield usable[members], usable[visitors]


class _Best:
    """Keeps the most similar second rows of each first row, and no other pair."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._kept = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32))
        self._new: list[tuple[Pairs, Pairs, npt.NDArray[np.float32]]] = []
        self._held = 0

    def add(self, first: Pairs, second: Pairs, cosine: npt.NDArray[np.float32]) -> None:
        if len(first):
            self._new.append((first, second, cosine))
            self._held += len(first)
            if self._held > _HELD + len(self._kept[0]):
                self._prune()

    def _prune(self) -> None:
        first, second, cosine = (np.concatenate(part) for part in zip(self._kept, *self._new, strict=True))
        # The better half of a tie is the earlier scan, whatever the order in which blocks were compared.
        order = np.lexsort((second, -cosine, first))
        first, second, cosine = first[order], second[order], cosine[order]
        fresh = np.ones(len(first), dtype=bool)
        fresh[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
        first, second, cosine = first[fresh], second[fresh], cosine[fresh]
        starts = np.flatnonzero(np.diff(first, prepend=-1))
        rank = np.arange(len(first)) - np.repeat(starts, np.diff(starts, append=len(first)))
        keep = rank < PARTNERS
        self._kept = first[keep], second[keep], cosine[keep]
        self._new, self._held = [], 0

    def pairs(self) -> Pairs:
        self._prune()
        found = np.stack(self._kept[:2], axis=1)
        return found[np.lexsort((found[:, 1], found[:, 0]))]
