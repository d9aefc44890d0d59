"""Ingest against a plain loop of decoding, sha256 and the same resize, and two processes against one."""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pydicom
from pydicom.uid import JPEG2000Lossless, generate_uid

from pipeline.ingest import run_ingest
from pipeline.ingest.settings import IngestSettings
from pipeline.manifest import Manifest, load_manifest
from pipeline.phantom import PhantomSettings, write_phantom_cohort
from pipeline.sources.images.resize import area_average
from tests.experiments.benchmarks.rows import Row

PLAIN_ROUNDS, PACKED_ROUNDS = 9, 3
NUM_PATIENTS, PLAIN_SIZE = 500, 512
PACKED_PATIENTS, PACKED_VARIANTS, PACKED_SIZE = 12, 8, 2048

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

PACKED_MANIFEST = """\
name: bench_packed
sources:
  - kind: dicom
    path: {folder}
    label: {{folder: 0}}
    patient: {{tag: PatientID}}
"""


def measure() -> list[Row]:
    """Time quarter-megapixel uncompressed files and 4-megapixel JPEG 2000 files."""
    with tempfile.TemporaryDirectory() as name:
        return [_plain_files(Path(name) / "plain"), *_packed_files(Path(name) / "packed")]


def _plain_files(folder: Path) -> Row:
    settings = PhantomSettings(num_patients=NUM_PATIENTS, image_size=PLAIN_SIZE, nifti_share=0.0)
    write_phantom_cohort(folder / "scans", settings)
    manifest = _manifest(folder, MANIFEST)
    files = sorted(path for path in (folder / "scans").rglob("*") if path.is_file() and _is_dicom(path))
    pairs = _pairs(lambda out: _ingest(manifest, out, 1), files, folder, PLAIN_ROUNDS)
    ours, plain = pairs[-1]
    detail = (
        f"{len(files)} files of {PLAIN_SIZE}x{PLAIN_SIZE}, one process: {ours:.1f} s against {plain:.1f} s"
    )
    return Row("ingest over a plain loop, uncompressed", tuple(a / b for a, b in pairs), 1.15, False, detail)


def _packed_files(folder: Path) -> list[Row]:
    files = _write_packed(folder / "scans")
    manifest = _manifest(folder, PACKED_MANIFEST)
    pairs = _pairs(lambda out: _ingest(manifest, out, 1), files, folder, PACKED_ROUNDS)
    two = [
        _timed(lambda index=index: _ingest(manifest, folder / f"two-{index}", 2))
        for index in range(PACKED_ROUNDS)
    ]
    ours, plain = pairs[-1]
    detail = (
        f"{len(files)} files of {PACKED_SIZE}x{PACKED_SIZE}, one process: {ours:.1f} s against {plain:.1f} s"
    )
    gains = tuple(one / both for (one, _), both in zip(pairs, two, strict=True))
    return [
        Row("ingest over a plain loop, JPEG 2000", tuple(a / b for a, b in pairs), 1.15, False, detail),
        Row(
            "ingest, two processes over one",
            gains,
            1.8,
            True,
            f"{ours:.1f} s with one, {two[-1]:.1f} s with two",
        ),
    ]


def _write_packed(folder: Path) -> list[Path]:
    """Write 4-megapixel JPEG 2000 files: phantoms, each turned, mirrored and shifted into several."""
    settings = PhantomSettings(
        num_patients=PACKED_PATIENTS, images_per_patient=(1, 1), image_size=PACKED_SIZE, nifti_share=0.0
    )
    write_phantom_cohort(folder.parent / "originals", settings)
    sources = [
        path
        for path in sorted((folder.parent / "originals").rglob("*"))
        if path.is_file() and _is_dicom(path)
    ]
    files = []
    for number, source in enumerate(sources):
        dataset = pydicom.dcmread(source)
        pixels = dataset.pixel_array
        for variant in range(PACKED_VARIANTS):
            turned = np.roll(pixels[:: (-1) ** variant], 37 * variant, axis=1)
            dataset.PatientID = f"bench-{number}-{variant}"
            dataset.SOPInstanceUID = generate_uid()
            dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
            dataset.set_pixel_data(
                np.ascontiguousarray(turned), dataset.PhotometricInterpretation, int(dataset.BitsStored)
            )
            dataset.compress(JPEG2000Lossless)
            path = folder / ("even" if number % 2 == 0 else "odd") / f"{number:02d}-{variant}.dcm"
            path.parent.mkdir(parents=True, exist_ok=True)
            dataset.save_as(path)
            files.append(path)
    return files


def _manifest(folder: Path, text: str) -> Manifest:
    path = folder / "bench.yaml"
    path.write_text(text.format(folder=folder / "scans"))
    return load_manifest(path)


def _pairs(
    ingest: Callable[[Path], None], files: list[Path], folder: Path, rounds: int
) -> list[tuple[float, float]]:
    """Return (seconds of ingest, seconds of the loop) of each round, back to back."""
    # Half a gigabyte was just written: let it reach the disk before anything is timed.
    os.sync()
    _plain_loop(files)
    return [
        (_timed(lambda index=index: ingest(folder / f"one-{index}")), _timed(lambda: _plain_loop(files)))
        for index in range(rounds)
    ]


def _timed(call: Callable[[], None]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _ingest(manifest: Manifest, out: Path, workers: int) -> None:
    run_ingest(manifest, out, IngestSettings(workers=workers))


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
