"""Patients that stand in more than one part of a published split."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from pipeline.ingest.splits import Codes


@dataclass(frozen=True)
class SharedPatients:
    """One published split.

    Attributes:
        name: its name in the manifest.
        parts: part -> patients in it.
        pairs: (part, part) -> patients that stand in both.
    """

    name: str
    parts: dict[str, int]
    pairs: dict[tuple[str, str], int]

    def notes(self) -> list[str]:
        """Return a sentence for each pair of parts."""
        return [
            f"published split {self.name}: {count} patients stand in both {first} and {second}"
            for (first, second), count in self.pairs.items()
        ]


def shared_patients(name: str, parts: list[str], patients: Codes) -> SharedPatients:
    """Count the patients that two parts of a published split share.

    Args:
        name: name of the published split.
        parts: part of each scan, empty if it stands in none.
        patients: (N,) patient number of each scan, -1 unknown.
    """
    members = {
        part: np.unique(patients[(np.array([p == part for p in parts], dtype=bool)) & (patients >= 0)])
        for part in sorted(set(parts) - {""}, key=_order)
    }
    pairs = {
        (first, second): len(np.intersect1d(members[first], members[second], assume_unique=True))
        for first, second in itertools.combinations(members, 2)
    }
    return SharedPatients(name, {part: len(found) for part, found in members.items()}, pairs)


def _order(part: str) -> tuple[int, str]:
    usual = ("train", "val", "test")
    return (usual.index(part) if part in usual else len(usual), part)
