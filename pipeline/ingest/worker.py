"""What a worker process does: read a chunk of scans, resize and describe them, and store the part."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from pipeline.errors import ScanRefusedError
from pipeline.identity import Pseudonyms
from pipeline.ingest.geometry import black_and_white, to_square
from pipeline.ingest.parts import Part, PartRow, write_part
from pipeline.ingest.quality import flags_of
from pipeline.pixels import stored_dtype
from pipeline.sources.base import Scan, ScanTask, age_band
from pipeline.sources.reading import read_scan

NO_ID = "patient id missing"


@dataclass(frozen=True)
class WorkOrder:
    """What is the same for every chunk of an ingest.

    Attributes:
        folder: where the parts are stored.
        key: the pseudonym key.
        dataset: name of the manifest, part of every split draw.
        split_seed: seed of the split.
        image_size: side of the stored images.
        bit_depth: 8 or 16.
        fit: `pad` or `crop`.
        robust: take percentiles even where the format fixes black and white.
        percentiles: percentiles that become black and white.
    """

    folder: Path
    key: bytes
    dataset: str
    split_seed: int
    image_size: int
    bit_depth: int
    fit: Literal["pad", "crop"]
    robust: bool
    percentiles: tuple[float, float]


def work(order: WorkOrder, number: int, tasks: list[ScanTask]) -> tuple[int, int]:
    """Read one chunk and store it as part `number`; return (scans read, scans refused)."""
    pseudonyms = Pseudonyms(order.key)
    shape = (len(tasks), 1, order.image_size, order.image_size)
    pixels = np.zeros(shape, dtype=stored_dtype(order.bit_depth))
    rows = []
    kept = 0
    for task in tasks:
        row = PartRow(sample_id=pseudonyms.scan(task.scan_name), source_format=task.rule.kind)
        try:
            scan = read_scan(task)
            _describe(row, scan, task, pseudonyms, order)
            pixels[kept, 0] = _square(scan, order)
            row.pixel_hash = hashlib.blake2b(pixels[kept].tobytes(), digest_size=16).hexdigest()
            row.flags = flags_of(pixels[kept, 0], scan.pixels.shape, scan.pixel_aspect)
            kept += 1
        except ScanRefusedError as error:
            row.reason = error.problem
            _known_patient(row, task, pseudonyms, order)
        rows.append(row)
    write_part(order.folder, number, Part(rows, pixels[:kept]))
    return kept, len(tasks) - kept


def draw(split_seed: int, dataset: str, patient: str) -> str:
    """Return 12 hex digits that depend on seed, dataset and patient only: the patient's split draws.

    The pseudonym key has no part in it, so that every user of a dataset gets the same split; the draws are
    never published.
    """
    text = f"{split_seed}\0{dataset}\0{patient}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(b"phosphor split\0" + text).hexdigest()[:12]


def _square(scan: Scan, order: WorkOrder) -> np.ndarray:
    fixed = scan.value_range if not order.robust else None
    limits = fixed if fixed is not None else black_and_white(scan.pixels, order.percentiles)
    square = to_square(
        scan.pixels,
        order.image_size,
        fit=order.fit,
        pixel_aspect=scan.pixel_aspect,
        black_white=limits,
        bit_depth=order.bit_depth,
    )
    if square.min() == square.max():
        raise ScanRefusedError("constant image")
    return square


def _describe(row: PartRow, scan: Scan, task: ScanTask, pseudonyms: Pseudonyms, order: WorkOrder) -> None:
    row.source_format = scan.source_format
    row.source_sha256 = scan.sha256
    row.height, row.width = (int(size) for size in scan.pixels.shape)
    row.spacing_mm = scan.spacing_mm
    row.view, row.sex, row.age_band = scan.view, scan.sex, age_band(scan.age_years)
    patient = task.patient if task.patient is not None else scan.patient
    if not patient:
        raise ScanRefusedError(NO_ID)
    _set_patient(row, patient, pseudonyms, order)


def _known_patient(row: PartRow, task: ScanTask, pseudonyms: Pseudonyms, order: WorkOrder) -> None:
    if task.patient is not None and not row.patient_id:
        _set_patient(row, task.patient, pseudonyms, order)


def _set_patient(row: PartRow, patient: str, pseudonyms: Pseudonyms, order: WorkOrder) -> None:
    row.patient_id = pseudonyms.patient(patient)
    row.draw = draw(order.split_seed, order.dataset, patient)
