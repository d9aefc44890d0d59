"""Writes the cohort's files from the parts: shards of bounded size, records, labels, split, refused scans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.cohort import FINDINGS_NAME
from pipeline.ingest.findings import Findings
from pipeline.ingest.looks import Looks
from pipeline.ingest.parts import PartRow, read_images
from pipeline.ingest.quality import DUPLICATE
from pipeline.ingest.reads import ReadsWriter
from pipeline.ingest.splits import TRAIN
from pipeline.ingest.survey import Overview
from pipeline.ingest.tables import BlockTable, record_schema, rejected_schema
from pipeline.pixels import stored_dtype, to_model_range, write_shard
from pipeline.records import AUDIT_ROLES, SPLITS
from pipeline.storage import write_npy

SHARD_BYTES = 8 * 2**20
ROWS_A_BLOCK = 1024
EXAMPLES = 12
"""Records of a flag that the quality page shows."""


@dataclass
class Written:
    """What the cohort's files hold, for `cohort.json` and the quality page.

    Attributes:
        files: names of the content files.
        counts: split -> class -> scans.
        patients: split -> patients.
        num_patients: patients in all.
        pixel_mean, pixel_std: over the train split, in [-1, 1].
        rejected: reason -> scans, most frequent first.
        flags: quality flag -> records.
        examples: quality flag -> positions of its first records.
    """

    files: list[str]
    counts: dict[str, dict[str, int]]
    patients: dict[str, int]
    num_patients: int
    pixel_mean: float
    pixel_std: float
    rejected: dict[str, int]
    flags: dict[str, int]
    examples: dict[str, list[int]]


def write_cohort(
    out: Path,
    parts: Path,
    num_parts: int,
    overview: Overview,
    looks: Looks,
    *,
    classes: tuple[str, ...],
    findings: Findings,
    reads: ReadsWriter,
    origin: npt.NDArray[np.int64],
    image_size: int,
    bit_depth: int,
) -> Written:
    """Write the content files, with one part and one shard in memory at a time.

    Args:
        out: the cohort directory.
        parts: where the finished parts lie.
        num_parts: their number.
        overview: which scans are kept, and where.
        looks: flags that comparing the images has given.
        classes: class names.
        findings: the findings of every scan, where the manifest has several labels a scan.
        reads: keeps what was read of each file, for the cohort that continues this one.
        origin: (N,) number of the file that each row came from.
        image_size: side of the images.
        bit_depth: 8 or 16.
    """
    for stale in out.glob("pixels-*.npy"):
        stale.unlink()
    shards = _ShardWriter(out, image_size, bit_depth)
    flags, rejected = Counter[str](), Counter[str]()
    examples: dict[str, list[int]] = {}
    tables = (
        BlockTable(out / "records.parquet", record_schema(), ROWS_A_BLOCK),
        BlockTable(out / "rejected.parquet", rejected_schema(), ROWS_A_BLOCK),
    )
    with tables[0] as records, tables[1] as refused, reads:
        for at, (row, pixels) in enumerate(_rows(parts, num_parts, image_size, stored_dtype(bit_depth))):
            kept_here = pixels is not None and bool(overview.kept[at])
            reads.add(int(origin[at]), row, len(shards) if kept_here else None)
            if pixels is None or not kept_here:
                reason = row.reason or overview.reasons[at]
                rejected[reason] += 1
                refused.add(sample_id=row.sample_id, reason=reason, source_format=row.source_format)
                continue
            duplicate = (DUPLICATE,) if overview.duplicates.size[at] > 1 else ()
            row.flags = (*row.flags, *duplicate, *looks.flags.get(at, ()))
            for flag in row.flags:
                note = examples.setdefault(flag, [])
                if len(note) < EXAMPLES:
                    note.append(len(shards))
            flags.update(row.flags)
            side = int(overview.split.side[at])
            shards.add(pixels, train=side == TRAIN)
            role = AUDIT_ROLES[int(overview.split.audit[at])]
            records.add(
                **_record(row, classes[int(overview.labels[at])], SPLITS[side], role),
                findings=findings.told(at),
            )
    kept = np.flatnonzero(overview.kept)
    sides, labels, patients = overview.split.side[kept], overview.labels[kept], overview.patients[kept]
    for name, codes in (("labels.npy", labels.astype(np.int32)), ("split.npy", sides.astype(np.uint8))):
        write_npy(out / name, codes, private=True)
    files = [*shards.close(), "records.parquet", "rejected.parquet", "labels.npy", "split.npy"]
    if findings.names:
        write_npy(out / FINDINGS_NAME, findings.states[kept], private=True)
        files.append(FINDINGS_NAME)
    return Written(
        files=files,
        counts={
            split: {name: int(((sides == code) & (labels == c)).sum()) for c, name in enumerate(classes)}
            for code, split in enumerate(SPLITS)
        },
        patients={split: len(np.unique(patients[sides == code])) for code, split in enumerate(SPLITS)},
        num_patients=len(np.unique(patients)),
        pixel_mean=shards.mean,
        pixel_std=shards.std,
        rejected=dict(sorted(rejected.items(), key=lambda item: (-item[1], item[0]))),
        flags=dict(sorted(flags.items())),
        examples=examples,
    )


def _rows(
    folder: Path, num_parts: int, image_size: int, dtype: np.dtype[Any]
) -> Iterator[tuple[PartRow, npt.NDArray[np.generic] | None]]:
    for number in range(num_parts):
        yield from read_images(folder, number, image_size, dtype)


def _record(row: PartRow, label: str, split: str, audit: str) -> dict[str, Any]:
    return {
        "sample_id": row.sample_id,
        "patient_id": row.patient_id,
        "label": label,
        "split": split,
        "audit": audit,
        "source_sha256": row.source_sha256,
        "source_format": row.source_format,
        "original_height": row.height,
        "original_width": row.width,
        "spacing_mm": row.spacing_mm,
        "qc_flags": ",".join(row.flags),
        "sex": row.sex,
        "age_band": row.age_band,
        "view": row.view,
    }


class _ShardWriter:
    """Collects kept images into shards of equal length and sums up the train split."""

    def __init__(self, out: Path, image_size: int, bit_depth: int) -> None:
        dtype = stored_dtype(bit_depth)
        rows = max(1, SHARD_BYTES // (image_size**2 * dtype.itemsize))
        self._out, self._names, self._held = out, list[str](), 0
        # Untouched pages of the buffer cost nothing, so a small cohort stays small.
        self._buffer = np.empty((rows, 1, image_size, image_size), dtype=dtype)
        self._count, self._sum, self._squares = 0, 0.0, 0.0

    def add(self, image: npt.NDArray[Any], *, train: bool) -> None:
        self._buffer[self._held] = image
        self._held += 1
        if train:
            values = to_model_range(image).astype(np.float64)
            self._count += values.size
            self._sum += float(values.sum())
            self._squares += float(np.square(values).sum())
        if self._held == len(self._buffer):
            self._flush()

    def __len__(self) -> int:
        return len(self._names) * len(self._buffer) + self._held

    def _flush(self) -> None:
        if self._held:
            self._names.append(write_shard(self._out, len(self._names), self._buffer[: self._held]))
            self._held = 0

    def close(self) -> list[str]:
        self._flush()
        return self._names

    @property
    def mean(self) -> float:
        return self._sum / max(self._count, 1)

    @property
    def std(self) -> float:
        return float(np.sqrt(max(self._squares / max(self._count, 1) - self.mean**2, 0.0)))
