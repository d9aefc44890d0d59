"""Writes the private quality page of a cohort: counts, refusals, flags with images, duplicates, conflicts."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.arrays import Bools, Codes, Floats, Ints
from pipeline.artifacts.cohort import CohortInfo
from pipeline.artifacts.pixels import PixelShards, StoredPixels
from pipeline.ingest.duplicates.duplicates import pattern_counts
from pipeline.ingest.duplicates.image_checks import Looks
from pipeline.ingest.reading.flags import EXPLANATIONS, NEAR_CONSTANT
from pipeline.ingest.splitting.patients import is_large
from pipeline.ingest.splitting.survey import Overview
from pipeline.ingest.writing.assemble import Written
from pipeline.ingest.writing.tables import read_ids
from pipeline.records import SPLITS
from pipeline.rendering.templating import render
from pipeline.storage import write_text

IMAGES_PER_CLASS = 24
COLUMNS = 12
PAIRS = 12
"""Largest number of pairs of each kind that the page shows."""

TILE_PIXELS, LARGEST_PIXELS = 96, 256
"""Sides in pixels: images of half the first or less are enlarged by the largest integer factor that fits;
images of more than the second, at which a radiograph can be judged, are reduced to it."""


@dataclass(frozen=True)
class Picture:
    """An image of the page.

    Attributes:
        address: `data:` address of the image.
        sample_id: hashed id of the scan.
        label: class of the scan.
        split: split of the scan.
    """

    address: str
    sample_id: str
    label: str
    split: str


@dataclass(frozen=True)
class Pair:
    """Two images side by side.

    Attributes:
        left, right: the images.
        same_patient: whether both are of one patient.
        agreement: correlation of near-duplicates, None for other pairs.
    """

    left: Picture
    right: Picture
    same_patient: bool
    agreement: float | None


def write_quality_page(
    out: Path, info: CohortInfo, written: Written, overview: Overview, looks: Looks, *, unread: list[str]
) -> Path:
    """Write `qc.html`, a single file without network access, of mode 0600 because it shows real patients.

    Args:
        out: the cohort directory, with its shards and records written.
        info: content of `cohort.json`.
        written: counts by reason and flag, and examples.
        overview: duplicates, shared patients, and the split of each scan.
        looks: near-duplicates and contradicting labels.
        unread: one sentence per reason why files in the sources were not read.
    """
    gallery = _Gallery(out, info, overview)
    near_here = looks.near_groups(overview.kept)
    sides = [SPLITS[code] if code >= 0 else "" for code in overview.split.side.tolist()]
    exact, near, conflicts = gallery.pairs(looks)
    page = render(
        "qc.html.j2",
        info=info,
        splits=SPLITS,
        written=written,
        ids=overview.ids,
        large=is_large(overview.ids),
        shared=overview.shared,
        duplicates=overview.duplicates,
        duplicate_parts={name: n for name, n in overview.duplicate_parts.items() if name},
        duplicate_sides=overview.duplicate_sides,
        crossing=overview.crossing,
        near=looks.near,
        near_groups=looks.near_groups().num_groups,
        near_parts={name: n for name, n in looks.near_parts.items() if name},
        near_sides=pattern_counts(near_here, sides),
        across=int(looks.across.sum()),
        num_conflicts=len(looks.conflicts),
        exact_pairs=exact,
        near_pairs=near,
        conflict_pairs=conflicts,
        near_constant=written.flags.get(NEAR_CONSTANT, 0),
        explanations=EXPLANATIONS,
        examples={flag: gallery.pictures(rows) for flag, rows in written.examples.items()},
        rejected=sum(written.rejected.values()),
        unread=unread,
        sheets=gallery.sheets(),
    )
    path = out / "qc.html"
    write_text(path, page, private=True)
    return path


class _Gallery:
    """Images of records by position, read from the shards of the cohort."""

    def __init__(self, out: Path, info: CohortInfo, overview: Overview) -> None:
        self._out, self._info, self._overview = out, info, overview
        self._shards = PixelShards(out, role="cohort", mapped=False)
        self._rows = np.flatnonzero(overview.kept)

    def pictures(self, positions: list[int]) -> list[Picture]:
        """Return the images of the records at some positions of the cohort."""
        from pipeline.rendering.pictures import data_uri, png_bytes

        images = _reduced(self._shards.take(positions))
        ids = read_ids(self._out / "records.parquet", positions)
        scale = max(1, TILE_PIXELS // images.shape[-1])
        rows = self._rows[positions].tolist()
        return [
            Picture(
                data_uri(png_bytes(image, scale=scale)),
                sample_id,
                self._info.classes[int(self._overview.labels[row])],
                SPLITS[int(self._overview.split.side[row])],
            )
            for image, sample_id, row in zip(images, ids, rows, strict=True)
        ]

    def pairs(self, looks: Looks) -> tuple[list[Pair], list[Pair], list[Pair]]:
        """Return some exact, near and contradicting pairs; pairs of different patients come first."""
        kept, patients = self._overview.kept, looks.patients
        exact = _first_two(self._overview.duplicates.group, self._overview.duplicates.size, kept)
        near = looks.near.pairs if looks.near is not None else np.zeros((0, 2), dtype=np.int64)
        strength = looks.near.correlation if looks.near is not None else np.zeros(0)
        here = kept[near].all(axis=1)
        near, strength = near[here], strength[here]
        conflicts = np.array(
            [pair for rows in looks.conflicts if (pair := _contradicting(rows, self._overview)) is not None],
            dtype=np.int64,
        ).reshape(-1, 2)

        def shown(found: Ints, agreement: Floats | None = None) -> list[Pair]:
            same = patients[found[:, 0]] == patients[found[:, 1]]
            order = np.argsort(same, kind="stable")[:PAIRS]
            pictures = self.pictures(np.searchsorted(self._rows, found[order].ravel()).tolist())
            return [
                Pair(left, right, bool(same[at]), None if agreement is None else float(agreement[at]))
                for at, left, right in zip(order.tolist(), pictures[::2], pictures[1::2], strict=True)
            ]

        return shown(exact), shown(near, strength), shown(conflicts)

    def sheets(self) -> dict[str, str]:
        """Return class -> `data:` address of a contact sheet of records evenly spaced over the class."""
        from pipeline.rendering.pictures import contact_sheet, data_uri

        labels = self._overview.labels[self._rows]
        sheets = {}
        for code, name in enumerate(self._info.classes):
            rows = np.flatnonzero(labels == code)
            chosen = rows[np.linspace(0, len(rows) - 1, min(IMAGES_PER_CLASS, len(rows))).astype(int)]
            images = _reduced(self._shards.take(chosen))
            columns = COLUMNS if images.shape[-1] <= TILE_PIXELS else COLUMNS // 2
            sheets[name] = data_uri(contact_sheet(images, columns, max(1, TILE_PIXELS // images.shape[-1])))
        return sheets


def _reduced(images: StoredPixels) -> StoredPixels:
    """Return images (n, 1, S, S), reduced to `LARGEST_PIXELS` if they are larger."""
    from pipeline.sources.images.resize import area_average

    side = LARGEST_PIXELS
    if images.shape[-1] <= side or not len(images):
        return images
    small = np.empty((len(images), 1, side, side), dtype=images.dtype)
    for number, image in enumerate(images[:, 0]):
        small[number, 0] = np.rint(area_average(image, side, side))
    return small


def _first_two(group: Codes, size: Ints, kept: Bools) -> Ints:
    """Return (G, 2): the first two kept rows of each group that has at least two."""
    rows = np.flatnonzero((size > 1) & kept)
    rows = rows[np.argsort(group[rows], kind="stable")]
    starts = np.flatnonzero(np.diff(group[rows], prepend=-1))
    starts = starts[np.diff(np.append(starts, len(rows))) > 1]
    pairs = np.stack([rows[starts], rows[np.minimum(starts + 1, max(len(rows) - 1, 0))]], axis=1)
    return pairs[np.argsort(pairs[:, 0], kind="stable")]


def _contradicting(rows: list[int], overview: Overview) -> tuple[int, int] | None:
    """Return two kept rows of a group that have different labels, or None."""
    kept = [row for row in rows if overview.kept[row]]
    return next(
        ((kept[0], row) for row in kept[1:] if overview.labels[row] != overview.labels[kept[0]]), None
    )
