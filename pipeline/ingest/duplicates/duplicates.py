"""Scans with equal or similar images, which are kept in one part of the split or dropped."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Bools, Codes


@dataclass(frozen=True)
class Duplicates:
    """Groups of scans with exactly the same stored pixels, or with similar images.

    Attributes:
        group: (N,) group number of each scan; equal numbers mean equal (or similar) images.
        size: (N,) number of scans in the group (1: no other scan, 0: the scan is not counted).
        num_groups: number of groups of at least two scans.
        conflicting: number of these groups whose scans have different labels.
    """

    group: Codes
    size: Codes
    num_groups: int
    conflicting: int


def find_duplicates(hashes: npt.NDArray[np.void], labels: Codes) -> Duplicates:
    """Group scans by the hash of their stored pixels.

    Args:
        hashes: (N,) fixed-width bytes.
        labels: (N,) class of each scan.
    """
    if not len(hashes):
        empty = np.zeros(0, dtype=np.int64)
        return Duplicates(empty, empty, 0, 0)
    _, group = np.unique(hashes, return_inverse=True)
    return grouped(group.astype(np.int64).reshape(-1), labels)


def grouped(group: Codes, labels: Codes) -> Duplicates:
    """Return the duplicates of group numbers (N,) >= 0, with labels (N,) to find conflicts."""
    counts = np.bincount(group)
    repeated = np.flatnonzero(counts > 1)
    labels_in_group = np.unique(np.stack([group, labels], axis=1), axis=0)[:, 0]
    distinct = np.bincount(labels_in_group, minlength=len(counts))
    return Duplicates(
        group, counts[group].astype(np.int64), len(repeated), int((distinct[repeated] > 1).sum())
    )


def spread(found: Duplicates, rows: Bools) -> Duplicates:
    """Return duplicates among the rows with True in `rows` as duplicates among all rows."""
    group = np.full(len(rows), -1, dtype=np.int64)
    size = np.zeros(len(rows), dtype=np.int64)
    group[rows], size[rows] = found.group, found.size
    return Duplicates(group, size, found.num_groups, found.conflicting)


def beyond_exact(alike: Duplicates, exact: Duplicates, labels: Codes, rows: Bools) -> Duplicates:
    """Return the groups of alike scans that hold at least two different images, among the given rows.

    Equal images are alike too; a group of nothing else is no news.

    Args:
        alike: groups of images that look alike, over all scans.
        exact: the exact duplicates, over all scans.
        labels: (N,) class of each scan.
        rows: (N,) scans that count.
    """
    at = np.flatnonzero(rows & (alike.size > 1))
    pairs = np.unique(np.stack([alike.group[at], exact.group[at]], axis=1), axis=0)[:, 0]
    names, images = np.unique(pairs, return_counts=True)
    several = at[np.isin(alike.group[at], names[images > 1])]
    chosen = np.zeros(len(rows), dtype=bool)
    chosen[several] = True
    if not len(several):
        return Duplicates(np.full(len(rows), -1), np.zeros(len(rows), dtype=np.int64), 0, 0)
    numbers = np.unique(alike.group[several], return_inverse=True)[1].astype(np.int64).reshape(-1)
    return spread(grouped(numbers, labels[several]), chosen)


def pattern_counts(duplicates: Duplicates, part: Sequence[str]) -> dict[str, int]:
    """Return how many duplicate groups stand in which parts, such as {"train": 16, "train-val": 8}.

    Args:
        duplicates: the groups.
        part: part or split of each scan.
    """
    where: dict[int, dict[str, None]] = {}
    for row in np.flatnonzero(duplicates.size > 1).tolist():
        where.setdefault(int(duplicates.group[row]), {})[part[row]] = None
    counts: dict[str, int] = {}
    for parts in where.values():
        name = "-".join(sorted(parts))
        counts[name] = counts.get(name, 0) + 1
    return dict(sorted(counts.items()))


def pair_counts(duplicates: Duplicates, part: Codes, num_parts: int) -> Codes:
    """Return (P, P): how many duplicate groups stand in both of two parts.

    Args:
        duplicates: the groups.
        part: (N,) part of each scan, -1 if it stands in none.
        num_parts: P.
    """
    rows = np.flatnonzero((duplicates.size > 1) & (part >= 0))
    names, number = np.unique(duplicates.group[rows], return_inverse=True)
    there = np.zeros((len(names), num_parts), dtype=np.int64)
    there[number.reshape(-1), part[rows]] = 1
    return there.T @ there


def crossing_groups(duplicates: Duplicates, side: Codes) -> int:
    """Return the number of duplicate groups in two parts of the split; side (N,) is -1 for excluded scans."""
    rows = np.flatnonzero((duplicates.size > 1) & (side >= 0))
    pairs = np.unique(np.stack([duplicates.group[rows], side[rows]], axis=1), axis=0)[:, 0]
    return int((np.unique(pairs, return_counts=True)[1] > 1).sum())


def joined_patients(
    patients: Codes, groupings: Sequence[Duplicates], use: Bools, *, draws: Codes, place: Codes | None = None
) -> Codes:
    """Return a group number a scan: patients that share an image get the same one.

    Patients that both have a place of before, and not the same one, are never joined. A patient without one
    that is linked to several such goes with one of them: groupings are followed in their order and within
    one the patients in the order of their draws, whatever the order of scans.

    Args:
        patients: (N,) patient number of each scan.
        groupings: duplicate groups, the surest (exact ones) first.
        use: (N,) scans that still count; the others join nobody.
        draws: (P,) draw of each patient.
        place: (P,) number that stands for side and audit role of before, -1 without.

    Returns:
        (N,) numbers 0..G-1 in the order in which the groups first appear.
    """
    parent = list(range(len(draws)))
    tied = place.tolist() if place is not None else [-1] * len(draws)

    def root(patient: int) -> int:
        while parent[patient] != patient:
            parent[patient] = parent[parent[patient]]
            patient = parent[patient]
        return patient

    for grouping in groupings:
        for patient, other in _links(patients, grouping, use, draws):
            a, b = sorted((root(patient), root(other)))
            if a != b and (tied[a] == tied[b] or min(tied[a], tied[b]) < 0):
                parent[b] = a
                tied[a] = max(tied[a], tied[b])
    roots = np.array([root(patient) for patient in patients.tolist()], dtype=np.int64)
    return _renumbered(roots)


def _links(patients: Codes, grouping: Duplicates, use: Bools, draws: Codes) -> list[list[int]]:
    """Pairs of patients that share an image: in each group everyone with the one of the smallest draw."""
    rows = np.flatnonzero((grouping.size > 1) & use)
    pairs = np.unique(np.stack([grouping.group[rows], patients[rows]], axis=1), axis=0)
    pairs = pairs[np.lexsort((draws[pairs[:, 1]], pairs[:, 0]))]
    start = np.flatnonzero(np.diff(pairs[:, 0], prepend=-1))
    first = np.repeat(pairs[start, 1], np.diff(np.append(start, len(pairs))))
    links = np.stack([first, pairs[:, 1]], axis=1)[first != pairs[:, 1]]
    order = np.lexsort((draws[links[:, 1]], draws[links[:, 0]]))
    return links[order].tolist()


def _renumbered(codes: Iterable[int]) -> Codes:
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(int(code), len(numbers)) for code in codes], dtype=np.int64)
