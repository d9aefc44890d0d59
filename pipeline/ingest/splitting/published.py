"""Overlap of the parts of a published split: shared patients, equal images, similar images."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Codes
from pipeline.errors import DataError
from pipeline.ingest.duplicates.duplicates import Duplicates, pair_counts

Pairs = Mapping[tuple[str, str], int]


@dataclass(frozen=True)
class PublishedSplit:
    """Overlap of the parts of a published split.

    Attributes:
        name: name of the split in the manifest.
        parts: part -> number of patients.
        pairs: (part, part) -> number of patients in both.
        exact: (part, part) -> number of groups of exact duplicates in both.
        alike: (part, part) -> number of groups of near-duplicates in both; None without a search for them.
    """

    name: str
    parts: dict[str, int]
    pairs: dict[tuple[str, str], int]
    exact: dict[tuple[str, str], int]
    alike: dict[tuple[str, str], int] | None = None

    def notes(self) -> list[str]:
        """Return one sentence per pair of parts with the number of shared patients, and one if images are."""
        notes = [self._note(self.pairs, pair, "patients") for pair in self.pairs]
        for counts, what in self._images():
            notes += [self._note(counts, pair, what) for pair in counts if counts[pair]]
            if not any(counts.values()):
                notes.append(f"published split {self.name}: no {what} stand in two parts")
        return notes

    def leaks(self) -> list[str]:
        """Return the sentences about pairs of parts that share something."""
        checks = [(self.pairs, "patients"), *self._images()]
        return [self._note(counts, pair, what) for counts, what in checks for pair in counts if counts[pair]]

    def _images(self) -> list[tuple[Pairs, str]]:
        alike = [] if self.alike is None else [(self.alike, "groups of near-duplicate images")]
        return [(self.exact, "groups of exact duplicate images"), *alike]

    def _note(self, counts: Pairs, pair: tuple[str, str], what: str) -> str:
        return f"published split {self.name}: {counts[pair]} {what} stand in both {pair[0]} and {pair[1]}"


def check_published(
    name: str, parts: Sequence[str], patients: Codes, exact: Duplicates, alike: Duplicates | None = None
) -> PublishedSplit:
    """Count the patients and images that each two parts of a published split share.

    Args:
        name: name of the published split.
        parts: part of each scan, empty if it is in none.
        patients: (N,) patient number of each scan, -1 if unknown.
        exact: exact duplicates.
        alike: near-duplicates without the exact ones; None without a search for them.
    """
    names = sorted(set(parts) - {""}, key=_order)
    codes = {part: code for code, part in enumerate(names)}
    part = np.fromiter((codes.get(part, -1) for part in parts), dtype=np.int64, count=len(parts))
    members = [np.unique(patients[(part == code) & (patients >= 0)]) for code in range(len(names))]
    pairs = list(itertools.combinations(range(len(names)), 2))

    def images(found: Duplicates) -> dict[tuple[str, str], int]:
        counts = pair_counts(found, part, len(names))
        return {(names[a], names[b]): int(counts[a, b]) for a, b in pairs}

    return PublishedSplit(
        name,
        {part: len(found) for part, found in zip(names, members, strict=True)},
        {
            (names[a], names[b]): len(np.intersect1d(members[a], members[b], assume_unique=True))
            for a, b in pairs
        },
        images(exact),
        images(alike) if alike is not None else None,
    )


def refuse_leaks(published: Sequence[PublishedSplit]) -> None:
    """Refuse data whose published splits share patients or images between parts.

    Raises:
        DataError: two parts share patients or images; the message has the counts.
    """
    leaks = [leak for split in published for leak in split.leaks()]
    if leaks:
        raise DataError(
            "; ".join(leaks),
            field="published_splits",
            remedy="Correct the published split. Without --set ingest.strict=true its parts are pooled and "
            "split again by patient; scans of the rest that share a patient or image with a kept test part "
            "are dropped.",
        )


def _order(part: str) -> tuple[int, str]:
    usual = ("train", "val", "test")
    return (usual.index(part) if part in usual else len(usual), part)
