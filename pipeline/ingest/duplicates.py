"""Exact duplicates: kept together on one side of the split, or dropped where they stand in the kept test."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.ingest.splits import Codes


@dataclass(frozen=True)
class Duplicates:
    """Groups of scans with exactly the same stored pixels.

    Attributes:
        group: (N,) number of the scan's pixel group; equal numbers mean equal pixels.
        size: (N,) how many scans share the pixels (1: none).
        num_groups: groups of at least two scans.
        conflicting: of these, groups whose scans have different labels.
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
    _, group, counts = np.unique(hashes, return_inverse=True, return_counts=True)
    group = group.astype(np.int64).reshape(-1)
    repeated = np.flatnonzero(counts > 1)
    labels_in_group = np.unique(np.stack([group, labels], axis=1), axis=0)[:, 0]
    distinct = np.bincount(labels_in_group, minlength=len(counts))
    return Duplicates(
        group, counts[group].astype(np.int64), len(repeated), int((distinct[repeated] > 1).sum())
    )


def pattern_counts(duplicates: Duplicates, part: list[str]) -> dict[str, int]:
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


def joined_patients(patients: Codes, duplicates: Duplicates, use: npt.NDArray[np.bool_]) -> Codes:
    """Return a group number a scan: patients that share an exact duplicate get the same one.

    Args:
        patients: (N,) patient number of each scan.
        duplicates: the duplicate groups.
        use: (N,) scans that still count; the others join nobody.

    Returns:
        (N,) numbers 0..G-1 in the order in which the groups first appear.
    """
    parent = np.arange(int(patients.max(initial=-1)) + 1)

    def root(patient: int) -> int:
        while parent[patient] != patient:
            parent[patient] = parent[parent[patient]]
            patient = int(parent[patient])
        return patient

    first: dict[int, int] = {}
    for row in np.flatnonzero((duplicates.size > 1) & use).tolist():
        patient = int(patients[row])
        other = first.setdefault(int(duplicates.group[row]), patient)
        a, b = sorted((root(patient), root(other)))
        parent[b] = a
    roots = np.array([root(int(patient)) for patient in patients], dtype=np.int64)
    return _renumbered(roots)


def _renumbered(codes: Iterable[int]) -> Codes:
    numbers: dict[int, int] = {}
    return np.array([numbers.setdefault(int(code), len(numbers)) for code in codes], dtype=np.int64)
