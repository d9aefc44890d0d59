"""Reads a chunk of scans, resizes and describes them, and stores them as a part."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanRefusedError
from pipeline.identity import Pseudonyms
from pipeline.ingest.reading.burned_in import find_text
from pipeline.ingest.reading.flags import CLIPPED, TEXT, TEXT_MASKED, flags_of, is_clipped, unexpected
from pipeline.ingest.reading.geometry import black_and_white, on_grid, to_square
from pipeline.ingest.reading.journal import Journal
from pipeline.ingest.reading.parts import PartRow, PartWriter
from pipeline.ingest.reading.read_cache import NAME as READS_NAME
from pipeline.ingest.reading.read_cache import EarlierReads, ReadTags
from pipeline.ingest.reading.signatures import signatures, thumbnail
from pipeline.ingest.reading.text_boxes import paint_over
from pipeline.ingest.splitting.seals import DrawSeal
from pipeline.records import CohortRef
from pipeline.scan_attributes import SCAN_ATTRIBUTES, told
from pipeline.sources.base import Scan, ScanTask
from pipeline.sources.reading import is_remote, read_scans
from pipeline.sources.tables.patient_ids import STAND_IN, looks_of, may_name_nobody, names_nobody

NO_ID = "patient id missing"
BURNED_IN = "burned-in text at the border"


@dataclass(frozen=True)
class WorkOrder:
    """Settings that all chunks of an ingest share.

    Attributes:
        folder: folder of the parts.
        key: the pseudonym key.
        dataset: name of the manifest, part of every split draw.
        split_seed: seed of the split.
        image_size: side of the stored images in pixels.
        bit_depth: 8 or 16.
        fit: `pad` or `crop`.
        robust: use percentiles even if the format defines black and white.
        percentiles: percentiles that become black and white.
        burned_in_text: treatment of text near the border, as in the settings.
        modalities: expected DICOM modalities; empty accepts all.
        views: expected views; empty accepts all.
        refuse_unexpected: refuse scans of other modalities or views instead of flagging them.
        earlier: earlier cohort whose reads of unchanged files are used again.
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
    burned_in_text: Literal["off", "flag", "mask", "quarantine"] = "off"
    modalities: tuple[str, ...] = ()
    views: tuple[str, ...] = ()
    refuse_unexpected: bool = False
    earlier: Path | None = None

    def tags(self) -> ReadTags:
        """Return the tags of files that are read under this order."""
        shaping = replace(self, folder=Path(), key=b"", earlier=None)
        # A change of the seal of draws, or of the attributes, makes earlier reads useless.
        rows = f"sealed by split\0{','.join(SCAN_ATTRIBUTES)}"
        return ReadTags(self.key, f"{CohortRef.version}\0{shaping!r}\0{rows}")

    def seal(self) -> DrawSeal:
        """Return the seal of the split draws."""
        return DrawSeal(self.key, self.dataset, self.split_seed)


def work(
    order: WorkOrder,
    number: int,
    tasks: list[ScanTask],
    *,
    journal: Journal,
    known_bad: Mapping[int, str],
    give_up: Callable[[int], bool] = lambda done: False,
) -> tuple[int, int] | None:
    """Read one chunk and store it as part `number`.

    Args:
        order: settings that all chunks share.
        number: number of the chunk.
        tasks: scans of the chunk.
        journal: journal of this process.
        known_bad: position in the chunk -> reason of refusal, for scans that must not be opened again.
        give_up: called with the number of scans done; if it returns True, the chunk is abandoned.

    Returns:
        (files read, files refused), or None if the chunk was abandoned.
    """
    reader = _Reader(order)
    refused = 0
    try:
        with PartWriter(order.folder, number) as part:
            for position, task in enumerate(tasks):

                def fetched(position: int = position) -> None:
                    journal.reading(number, position)

                # Waiting for a server is no stall of the scan; the store has a time limit of its own.
                journal.idle() if is_remote(task) else fetched()
                problem = known_bad.get(position)
                if problem is None:
                    problem = reader.read(task, position, part, fetched)
                else:
                    part.add(reader.refused(task, position, problem))
                refused += problem is not None
                if give_up(position + 1):
                    raise _GivenUpError
            reader.sign()
    except _GivenUpError:
        return None
    finally:
        journal.idle()
    return len(tasks) - refused, refused


class _GivenUpError(Exception):
    """Leaves the block of the part, which removes the unfinished file."""


class _Reader:
    """Reads tasks into the rows of a part."""

    def __init__(self, order: WorkOrder) -> None:
        self._order, self._pseudonyms = order, Pseudonyms(order.key)
        self._seal = order.seal()
        self._earlier = _earlier_reads(order)
        self._unsigned: list[tuple[PartRow, npt.NDArray[np.uint8]]] = []

    def read(
        self, task: ScanTask, position: int, part: PartWriter, fetched: Callable[[], None]
    ) -> str | None:
        """Add the task's scans to the part; return the first reason if any of them was refused."""
        known = self._earlier.rows(task) if self._earlier is not None else []
        if known:
            for row, image in known:
                row.scan = position
                part.add(row, image)
            return next((row.reason for row, _ in known if row.reason), None)
        problem: str | None = None
        try:
            for scan in read_scans(task, fetched):
                try:
                    self._add(scan, task, position, part)
                except ScanRefusedError as error:
                    # Each frame is a scan of its own, so those after a refused one are still read.
                    problem = problem or error.problem
                    part.add(self.refused(task, position, error.problem, frame=scan.frame))
        except ScanRefusedError as error:
            problem = problem or error.problem
            part.add(self.refused(task, position, error.problem))
        return problem

    def _add(self, scan: Scan, task: ScanTask, position: int, part: PartWriter) -> None:
        row = PartRow(self._pseudonyms.scan(_name_of(task, scan.frame)), position)
        self._describe(row, scan, task)
        image, flags = self._square(scan)
        row.pixel_hash = hashlib.blake2b(image.tobytes(), digest_size=16).hexdigest()
        self._unsigned.append((row, thumbnail(image)))
        row.flags = (
            *flags_of(image, scan.pixels.shape, scan.pixel_aspect),
            *scan.flags,
            *row.flags,
            *flags,
        )
        part.add(row, image)

    def sign(self) -> None:
        """Compute the signatures of the rows read so far; a batch is three times as fast as single calls."""
        if self._unsigned:
            made = signatures(np.stack([small for _, small in self._unsigned]))
            for (row, _), signature in zip(self._unsigned, made, strict=True):
                row.signature = signature.tobytes().hex()
            self._unsigned = []

    def refused(self, task: ScanTask, position: int, reason: str, *, frame: int | None = None) -> PartRow:
        """Return the row of a refused scan or frame."""
        sample_id = self._pseudonyms.scan(_name_of(task, frame))
        row = PartRow(sample_id, position, reason=reason, source_format=task.rule.kind)
        if task.patient is not None:
            self._set_patient(row, task.patient)
        return row

    def _square(self, scan: Scan) -> tuple[np.ndarray, tuple[str, ...]]:
        """Return the stored image and the flags that depend on the full-size pixels."""
        order = self._order
        fixed = scan.value_range if not order.robust else None
        grid = on_grid(scan.pixels)
        limits = fixed if fixed is not None else black_and_white(scan.pixels, order.percentiles, grid=grid)
        flags = (CLIPPED,) if is_clipped(grid, scan.value_range) else ()
        pixels = scan.pixels
        if order.burned_in_text != "off" and (text := find_text(pixels, limits)):
            if order.burned_in_text == "quarantine":
                raise ScanRefusedError(BURNED_IN)
            flags = (*flags, TEXT_MASKED if order.burned_in_text == "mask" else TEXT)
            if order.burned_in_text == "mask":
                pixels = paint_over(pixels, text)
                # The percentiles must not count the letters.
                limits = fixed if fixed is not None else black_and_white(pixels, order.percentiles)
        square = to_square(
            pixels,
            order.image_size,
            fit=order.fit,
            pixel_aspect=scan.pixel_aspect,
            black_white=limits,
            bit_depth=order.bit_depth,
        )
        if square.min() == square.max():
            raise ScanRefusedError("constant image")
        return square, flags

    def _describe(self, row: PartRow, scan: Scan, task: ScanTask) -> None:
        row.source_format = scan.source_format
        row.source_sha256 = scan.sha256
        row.height, row.width = (int(size) for size in scan.pixels.shape)
        row.spacing_mm = scan.spacing_mm
        row.attributes = scan.attributes
        patient = task.patient if task.patient is not None else scan.patient
        if not patient:
            raise ScanRefusedError(NO_ID)
        if task.patient is None:
            # The listing has checked ids from tables and names.
            if names_nobody(patient):
                raise ScanRefusedError(STAND_IN)
            row.doubtful = may_name_nobody(patient)
        self._set_patient(row, patient)
        view = told(scan.attributes, "view")
        row.flags = unexpected(scan.source_format, view, self._order.modalities, self._order.views)
        if row.flags and self._order.refuse_unexpected:
            raise ScanRefusedError(row.flags[0].replace("_", " "))

    def _set_patient(self, row: PartRow, patient: str) -> None:
        row.patient_id = self._pseudonyms.patient(patient)
        drawn = draw(self._order.split_seed, self._order.dataset, patient)
        row.sealed_draw = self._seal(drawn, row.patient_id)
        row.looks = " ".join(map(self._pseudonyms.look, looks_of(patient)))


def _name_of(task: ScanTask, frame: int | None) -> str:
    """Return the name from which a scan's id is made; the private map finds frames by the same names."""
    return task.scan_name if frame is None else f"{task.scan_name}#{frame}"


def close_earlier() -> None:
    """Close the earlier cohort, which this process keeps open: Windows cannot remove an open file."""
    _earlier_reads.cache_clear()


@functools.lru_cache(maxsize=1)
def _earlier_reads(order: WorkOrder) -> EarlierReads | None:
    """Return the reads of the earlier cohort, opened once per process; None if there are none."""
    if order.earlier is None or not (order.earlier / READS_NAME).is_file():
        return None
    return EarlierReads(order.earlier, order.tags())


def draw(split_seed: int, dataset: str, patient: str) -> str:
    """Return the split draw of a patient: 12 hex digits that depend only on seed, dataset and patient.

    It does not depend on the pseudonym key, so every user of a dataset gets the same split. Draws are written
    only in sealed form.
    """
    text = f"{split_seed}\0{dataset}\0{patient}".encode("utf-8", "surrogatepass")
    return hashlib.sha256(b"phosphor split\0" + text).hexdigest()[:12]
