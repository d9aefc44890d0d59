"""A folder of damaged files through ingest: it ends, and every file is a scan or refused by name."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from pipeline.ingest import run_ingest
from pipeline.ingest.reading import pool
from pipeline.ingest.settings import IngestSettings
from tests.pipeline.ingest.scans import manifest_of
from tests.pipeline.sources.fuzzing.cases import case

MANIFEST = """
name: damaged
sources:
  - {kind: dicom, path: files, include: ["dicom/**/*"], label: {folder: 1}}
  - {kind: images, path: files, include: ["images/**/*"], label: {folder: 1}}
  - {kind: nifti, path: files, include: ["nifti/**/*"], label: {folder: 1}, projection: mean}
"""


def write_damaged(folder: Path, numbers: range) -> int:
    """Write damaged files below `folder/files`, and return how many."""
    written = 0
    for number in numbers:
        made = case(number)
        # An empty file is refused before any reader sees it.
        if made is not None:
            place = folder / "files" / made.rule.kind / "ab"[number // 10 % 2] / f"{number:06d}.bin"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(made.data)
            written += 1
    return written


def ingest(folder: Path, numbers: range, workers: int) -> tuple[int, int, int]:
    """Return the number of files, of scans and of refused files."""
    files = write_damaged(folder, numbers)
    settings = IngestSettings(
        image_size=32, workers=workers, chunk_scans=16, scan_seconds=10.0, max_reject_share=1.0
    )
    reference = run_ingest(manifest_of(folder, MANIFEST), folder / "out", settings)
    return files, reference.counts["scans"], len(pd.read_parquet(folder / "out" / "rejected.parquet"))


@pytest.mark.parametrize("workers", [1, 2])
def test_a_folder_of_damaged_files_becomes_scans_and_refusals(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process, and in two that start at once."""
    monkeypatch.setattr(pool, "POOL_PAYS_SECONDS", 0.0)
    monkeypatch.setattr(pool, "PROBE_SECONDS", 0.0)
    files, scans, refused = ingest(tmp_path, range(6_000, 6_120), workers)
    assert scans > 0
    assert scans + refused == files


@pytest.mark.slow
def test_thousands_of_damaged_files_become_scans_and_refusals(tmp_path: Path) -> None:
    files, scans, refused = ingest(tmp_path, range(5_000), 2)
    assert scans > 0
    assert scans + refused == files
