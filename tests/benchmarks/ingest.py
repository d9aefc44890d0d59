"""Ingest against a plain loop of decoding, sha256 and the same resize, over the same files in one process."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import time
from pathlib import Path

import numpy as np
import pydicom

from pipeline.ingest import run_ingest
from pipeline.ingest.settings import IngestSettings
from pipeline.manifest import load_manifest
from pipeline.sources.phantom import PhantomSettings, write_phantom_cohort
from pipeline.sources.resize import area_average
from tests.benchmarks.rows import Row

ROUNDS = 9
NUM_PATIENTS = 500
IMAGE_SIZE = 512

MANIFEST = """\
name: bench
sources:
  - kind: dicom
    path: {folder}
    include: ["dicom/**/*"]
    table: {{path: {folder}/labels.csv}}
    label: {{column: label}}
    patient: {{tag: PatientID}}
"""


def measure() -> list[Row]:
    """Ingest phantom DICOM files of a quarter megapixel, then loop over the same files plainly."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_phantom_cohort(
            folder / "scans",
            PhantomSettings(num_patients=NUM_PATIENTS, image_size=IMAGE_SIZE, nifti_share=0.0),
        )
        manifest_path = folder / "bench.yaml"
        manifest_path.write_text(MANIFEST.format(folder=folder / "scans"))
        manifest = load_manifest(manifest_path)
        files = sorted(path for path in (folder / "scans").rglob("*") if path.is_file() and _is_dicom(path))
        # Half a gigabyte was just written: let it reach the disk before anything is timed.
        os.sync()
        _plain_loop(files)
        pairs = []
        for index in range(ROUNDS):
            started = time.perf_counter()
            run_ingest(manifest, folder / f"cohort-{index}", IngestSettings(workers=1))
            ours = time.perf_counter() - started
            started = time.perf_counter()
            _plain_loop(files)
            pairs.append((ours, time.perf_counter() - started))
    ours, plain = pairs[-1]
    detail = f"{len(files)} files of {IMAGE_SIZE}x{IMAGE_SIZE}: {ours:.1f} s against {plain:.1f} s"
    return [Row("ingest over a plain loop", tuple(a / b for a, b in pairs), 1.25, False, detail)]


def _is_dicom(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"


def _plain_loop(files: list[Path]) -> None:
    total = np.zeros((32, 32))
    for path in files:
        data = path.read_bytes()
        hashlib.sha256(data).hexdigest()
        pixels = pydicom.dcmread(io.BytesIO(data)).pixel_array
        total += area_average(pixels, 32, 32)
