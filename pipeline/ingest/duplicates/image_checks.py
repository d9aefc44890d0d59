"""Checks of the images of a cohort: copies, contradicting labels, negatives, outliers."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Bools, Codes, Ints
from pipeline.ingest.duplicates.duplicates import Duplicates, find_duplicates, pattern_counts, spread
from pipeline.ingest.duplicates.near_duplicates import NearDuplicates, find_near_duplicates
from pipeline.ingest.duplicates.outliers import inverted, unlike_the_rest
from pipeline.ingest.reading.facts import Facts
from pipeline.ingest.reading.flags import INVERTED, LABEL_CONFLICT, NEAR_DUPLICATE, UNLIKE
from pipeline.ingest.reading.parts import images_at
from pipeline.ingest.reading.signatures import THUMBNAIL_SIDE, thumbnail
from pipeline.ingest.settings import IngestSettings


@dataclass
class Looks:
    """What comparing the images of all scans has shown.

    Attributes:
        near: near-duplicates, or None if they were not looked for; its pairs are row numbers.
        alike: (N,) groups of exact and near duplicates over all rows, -1 for rows without a usable image.
        flags: row number -> flags.
        conflicts: groups of exact or near duplicates that have several labels, each with its rows.
        patients: (N,) patient number of each row.
        near_parts: groups with a near-duplicate by published part, before anything was dropped.
    """

    near: NearDuplicates | None
    alike: Duplicates
    flags: dict[int, tuple[str, ...]] = field(default_factory=dict)
    conflicts: list[list[int]] = field(default_factory=list)
    patients: Codes = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    near_parts: dict[str, int] = field(default_factory=dict)

    def near_groups(self, use: Bools | None = None) -> Duplicates:
        """Return the groups that hold a near-duplicate, among the rows (N,) to use.

        Args:
            use: rows that count; all by default.
        """
        size = np.zeros_like(self.alike.size)
        if self.near is not None and len(self.near.pairs):
            named = np.isin(self.alike.group, np.unique(self.alike.group[self.near.pairs]))
            size = np.where(named if use is None else named & use, self.alike.size, 0)
        held = self.alike.group[size > 1]
        return Duplicates(self.alike.group, size, len(np.unique(held)), 0)

    @property
    def across(self) -> Bools:
        """(M,) True for near-duplicate pairs of different patients."""
        if self.near is None:
            return np.zeros(0, dtype=bool)
        first, second = self.patients[self.near.pairs].T
        return np.asarray(first != second)

    def notes(self) -> list[str]:
        """Return what a reader of the cohort should know, one sentence each, without ids."""
        notes = []
        if self.near is not None and (count := int(self.across.sum())):
            noun = "pair of near-duplicate images is" if count == 1 else "pairs of near-duplicate images are"
            notes.append(f"{count} {noun} of different patients")
        near = self.near_groups().size
        if count := sum(bool(near[rows].any()) for rows in self.conflicts):
            notes.append(f"{count} groups of near-duplicates have different labels")
        return notes


def compare_images(
    facts: Facts,
    folder: Path,
    labels: Codes,
    classes: int,
    settings: IngestSettings,
    *,
    parts: list[str],
    image_size: int,
    dtype: np.dtype[Any],
) -> Looks:
    """Compare the images of all parts; what stays in memory of each is its signature.

    Args:
        facts: what the parts say of all rows.
        folder: where the parts lie.
        labels: (N,) class of each row, -1 without one.
        classes: number of classes.
        settings: ingest settings.
        parts: part of each row in the first published split, empty texts without one.
        image_size: side of the stored images.
        dtype: type of the stored pixels.
    """
    usable = facts.readable & (labels >= 0)
    rows = np.flatnonzero(usable)
    groups = find_duplicates(facts.hashes[rows], labels[rows])
    near = None
    if settings.near_duplicates != "off" and len(rows) > 1:
        with _Thumbnails(folder, facts, rows, image_size, dtype) as thumbnails:
            near = find_near_duplicates(
                facts.signatures[rows],
                thumbnails,
                exact=groups.group,
                patients=facts.patients[rows],
                labels=labels[rows],
            )
        groups = near.groups
        near = replace(near, pairs=rows[near.pairs])
    looks = Looks(near, spread(groups, usable), patients=facts.patients)
    looks.near_parts = pattern_counts(looks.near_groups(), parts)
    _flag(looks, facts.signatures, labels, classes)
    return looks


def _flag(looks: Looks, signatures: npt.NDArray[np.int8], labels: Codes, classes: int) -> None:
    flags: dict[int, list[str]] = {}

    def add(rows: Ints, flag: str) -> None:
        for row in rows.tolist():
            flags.setdefault(row, []).append(flag)

    usable = looks.alike.group >= 0
    for code in range(classes):
        rows = np.flatnonzero(usable & (labels == code))
        add(rows[inverted(signatures[rows])], INVERTED)
        add(rows[unlike_the_rest(signatures[rows])], UNLIKE)
    if looks.near is not None and len(looks.near.pairs):
        # Exact copies of a near-duplicate are near-duplicates too, but are in no pair.
        add(np.flatnonzero(looks.near_groups().size), NEAR_DUPLICATE)
    if looks.alike.conflicting:
        several = np.flatnonzero(looks.alike.size > 1)
        order = several[np.argsort(looks.alike.group[several], kind="stable")]
        ends = np.flatnonzero(np.diff(looks.alike.group[order])) + 1
        looks.conflicts = [
            members.tolist() for members in np.split(order, ends) if len(np.unique(labels[members])) > 1
        ]
        add(np.concatenate([np.array(members) for members in looks.conflicts]), LABEL_CONFLICT)
    looks.flags = {row: tuple(found) for row, found in flags.items()}


class _Thumbnails:
    """Thumbnails of some rows, in an unnamed file beside the parts: any of them is one short read away."""

    def __init__(
        self, folder: Path, facts: Facts, rows: Codes, image_size: int, dtype: np.dtype[Any]
    ) -> None:
        self._folder, self._facts, self._rows = folder, facts, rows
        self._image_size, self._dtype = image_size, dtype
        self._side = min(image_size, THUMBNAIL_SIDE)
        self._place = np.full(len(rows), -1, dtype=np.int32)
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 - closed by __exit__

    def __enter__(self) -> _Thumbnails:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def fetch(self, rows: Ints) -> None:
        """Copy the thumbnails of rows from the parts, one image in memory at a time."""
        self._place[rows] = np.arange(len(rows))
        places, starts = self._rows[rows], self._facts.starts
        position = np.cumsum(self._facts.readable) - 1
        for number in np.unique(np.searchsorted(starts, places, side="right") - 1).tolist():
            here = places[(places >= starts[number]) & (places < starts[number + 1])]
            before = int(np.count_nonzero(self._facts.readable[: starts[number]]))
            within = (position[here] - before).tolist()
            for image in images_at(self._folder, number, within, self._image_size, self._dtype):
                self._file.write(thumbnail(image).tobytes())
        self._file.flush()

    def take(self, rows: Ints) -> npt.NDArray[np.uint8]:
        """Return thumbnails (n, T, T) of rows that were fetched."""
        length = self._side**2
        out = np.empty((len(rows), self._side, self._side), dtype=np.uint8)
        for number, place in enumerate(self._place[rows].tolist()):
            self._file.seek(place * length)
            out[number] = np.frombuffer(self._file.read(length), dtype=np.uint8).reshape(out.shape[1:])
        return out
