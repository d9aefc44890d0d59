"""Writes the files of a cohort from the parts: pixel shards, records, labels, split, refused scans."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.cohort import ATTRIBUTES, ATTRIBUTES_NAME, FINDINGS_NAME, PATIENTS_NAME
from pipeline.artifacts.pixels import stored_dtype
from pipeline.ingest.duplicates.image_checks import Looks
from pipeline.ingest.reading.flags import DUPLICATE
from pipeline.ingest.reading.parts import PartRow, read_images
from pipeline.ingest.reading.read_cache import ReadsWriter
from pipeline.ingest.splitting.rows import ScanRows
from pipeline.ingest.splitting.splits import TRAIN
from pipeline.ingest.splitting.survey import Overview
from pipeline.ingest.writing.attributes import AttributeCodes
from pipeline.ingest.writing.shards import ShardWriter
from pipeline.ingest.writing.tables import BlockTable, record_schema, rejected_schema
from pipeline.records import AUDIT_ROLES, SPLITS
from pipeline.storage import write_npy

ROWS_A_BLOCK = 1024
EXAMPLES = 12
"""Largest number of records per flag that the quality page shows."""


@dataclass
class Written:
    """Statistics of the cohort's files, for `cohort.json` and the quality page.

    Attributes:
        files: names of the content files.
        counts: split -> class -> number of scans.
        patients: split -> number of patients.
        num_patients: number of all patients.
        pixel_mean, pixel_std: mean and standard deviation over the train split, in [-1, 1].
        rejected: reason -> number of scans, most frequent first.
        flags: quality flag -> number of records.
        examples: quality flag -> positions of its first records.
        attributes: attribute -> its values in the order of their codes; empty if no scan has any.
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
    attributes: dict[str, tuple[str, ...]]


def write_cohort(
    out: Path,
    parts: Path,
    num_parts: int,
    *,
    overview: Overview,
    looks: Looks,
    rows: ScanRows,
    image_size: int,
    bit_depth: int,
) -> Written:
    """Write the content files, with one part and one shard in memory at a time.

    Args:
        out: the cohort directory.
        parts: folder of the finished parts.
        num_parts: number of parts.
        overview: which scans are kept, and their splits.
        looks: flags from the comparison of images.
        rows: class, findings and file of every row.
        image_size: side of the images in pixels.
        bit_depth: 8 or 16.
    """
    for stale in out.glob("pixels-*.npy"):
        stale.unlink()
    shards = ShardWriter(out, int(overview.kept.sum()), image_size, bit_depth)
    reads = ReadsWriter(out, rows.files)
    classes, findings = rows.classes, rows.findings
    flags, rejected = Counter[str](), Counter[str]()
    examples: dict[str, list[int]] = {}
    attributes = AttributeCodes()
    tables = (
        BlockTable(out / "records.parquet", record_schema(), ROWS_A_BLOCK),
        BlockTable(out / "rejected.parquet", rejected_schema(), ROWS_A_BLOCK),
    )
    with tables[0] as records, tables[1] as refused, reads, shards:
        for at, (row, pixels) in enumerate(_rows(parts, num_parts, image_size, stored_dtype(bit_depth))):
            kept_here = pixels is not None and bool(overview.kept[at])
            reads.add(int(rows.origin[at]), row, shards.written if kept_here else None)
            if pixels is None or not kept_here:
                reason = row.reason or overview.reasons[at]
                rejected[reason] += 1
                refused.add(sample_id=row.sample_id, reason=reason, source_format=row.source_format)
                continue
            duplicate = (DUPLICATE,) if overview.duplicates.size[at] > 1 else ()
            row.flags = (*row.flags, *duplicate, *looks.flags.get(at, ()))
            for flag in row.flags:
                positions = examples.setdefault(flag, [])
                if len(positions) < EXAMPLES:
                    positions.append(shards.written)
            flags.update(row.flags)
            side = int(overview.split.side[at])
            shards.add(pixels, train=side == TRAIN)
            attributes.add(row.attributes)
            role = AUDIT_ROLES[int(overview.split.audit[at])]
            records.add(
                **_record(row, classes[int(overview.labels[at])], SPLITS[side], role),
                findings=findings.text(at),
            )
    kept = np.flatnonzero(overview.kept)
    sides, labels, patients = overview.split.side[kept], overview.labels[kept], overview.patients[kept]
    arrays: dict[str, npt.NDArray[Any]] = {
        "labels.npy": labels.astype(np.int32),
        "split.npy": sides.astype(np.uint8),
    }
    if findings.names:
        arrays[FINDINGS_NAME] = findings.states[kept]
    attribute_values, attribute_codes = attributes.finish()
    if attribute_values:
        arrays[ATTRIBUTES_NAME] = attribute_codes
    if attribute_values or findings.names:
        # Training counts patients, but reads no tables.
        arrays[PATIENTS_NAME] = np.unique(patients, return_inverse=True)[1].astype(np.int32)
    for name, array in arrays.items():
        write_npy(out / name, array, private=True)
    return Written(
        files=[*shards.names, "records.parquet", "rejected.parquet", *arrays],
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
        attributes=attribute_values,
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
        **dict(zip(ATTRIBUTES, row.attributes, strict=True)),
    }
