"""What a file itself tells of its pixels reaches the cohort: as a flag, or as the reason of a refusal."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.artifacts.cohort import Cohort
from pipeline.ingest import run_ingest
from pipeline.ingest.settings import IngestSettings
from pipeline.sources.base import BEYOND_BITS
from tests.pipeline.ingest.planted import radiographs
from tests.pipeline.ingest.scans import manifest_of
from tests.pipeline.sources.dicom.dicoms import header, written

MANIFEST = """
name: made
sources:
  - kind: dicom
    path: scans
    label: {folder: 0}
    patient: {tag: PatientID}
"""


def test_values_beyond_the_bits_stored_are_flagged_and_a_contradiction_is_refused(tmp_path: Path) -> None:
    for number, image in enumerate(radiographs(12, 64)):
        folder = tmp_path / "scans" / ("bar", "disc")[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        # Twelve bits by the header; the last four images have fourteen.
        pixels = image.astype(np.uint16) * (64 if number >= 8 else 16)
        made = header(pixels, PatientID=f"P{number}", SOPInstanceUID=f"2.25.{number + 1}")
        if number == 3:
            made.Rows = 32
        (folder / f"{number}.dcm").write_bytes(written(made))
    settings = IngestSettings(image_size=32, chunk_scans=16, workers=1)
    cohort = Cohort(run_ingest(manifest_of(tmp_path, MANIFEST), tmp_path / "c", settings).path)
    flags = [set(str(text).split(",")) for text in cohort.records()["qc_flags"]]
    assert sum(BEYOND_BITS in found for found in flags) == 4
    assert BEYOND_BITS in (cohort.folder / "qc.html").read_text()
    assert "more pixel data than the header says" in (cohort.folder / "qc.html").read_text()
