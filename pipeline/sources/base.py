"""A scan to read, a scan that was read, and the bounds that every reader of outside files keeps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.errors import DataError, ScanRefusedError

MAX_PIXELS = 100_000_000
"""Largest image that is decoded; a computed radiograph has about 10 million pixels."""

MAX_FILE_BYTES = 512 * 2**20
"""Largest file that is read into memory."""

OWN_PATIENT = "\0own:"
"""Prefix of the stand-in patient id of a scan that is its own patient; no table can hold it."""


@dataclass(frozen=True, slots=True)
class DicomOptions:
    """How the DICOM files of a source are read.

    Attributes:
        frames: which of several frames: `refuse`, `first`, `middle`, `each`, or a number from 1 on.
        window: which of several VOI LUTs and windows, from `0` on, or `none`: the stored range.
        headless: whether to read files without preamble or file meta.
        colour: colourful images: `refuse`, or `grey` for their luma; grey content in colour form is
            always read.
    """

    frames: str = "refuse"
    window: str = "0"
    headless: bool = False
    colour: str = "refuse"


@dataclass(frozen=True, slots=True)
class ReadRule:
    """What all scans of one source share when they are read.

    Attributes:
        kind: `dicom`, `nifti`, `images` or `medmnist`.
        root: absolute folder, or the npz file. Identifying: never written or logged.
        patient_tag: DICOM keyword of the patient id, empty if the patient is known otherwise.
        projection: what to take of a NIfTI volume.
        axis: along which axis of a volume in RAS+ orientation.
        prefix: tells equal file names of several sources apart; empty for the first source.
        dicom: how DICOM files are read.
    """

    kind: str
    root: str
    patient_tag: str = ""
    projection: str = "none"
    axis: int = 1
    prefix: str = ""
    dicom: DicomOptions = DicomOptions()


@dataclass(frozen=True, slots=True)
class ScanTask:
    """A scan that can be read: light, picklable, without pixels.

    Attributes:
        rule: how scans of its source are read.
        name: relative file name, or `part/row` of an archive. Identifying: never written or logged.
        label: class name, empty if `refusal` says why there is none.
        patient: patient id, a stand-in that starts with `OWN_PATIENT`, or None: read the DICOM tag.
        published: part of each published split of the source, in the manifest's order.
        pixel_aspect: width over height of a stored pixel.
        sex: `F`, `M`, `O` or empty, from a table.
        age_years: from a table, or None.
        refusal: why the scan cannot be used, known before it is read; empty if nothing is known.
        claimed: patient that a table names but the pixels do not confirm: counted in reports on published
            splits, never used for splitting.
    """

    rule: ReadRule
    name: str
    label: str = ""
    patient: str | None = None
    published: tuple[str, ...] = ()
    pixel_aspect: float = 1.0
    sex: str = ""
    age_years: float | None = None
    refusal: str = ""
    claimed: str = ""

    @property
    def scan_name(self) -> str:
        """The name that is unique over all sources, from which the scan's pseudonym is made."""
        return self.rule.prefix + self.name


@dataclass(frozen=True, slots=True)
class Scan:
    """A decoded scan: pixels and the allow-listed attributes, nothing else of its header.

    Attributes:
        pixels: (H, W) uint8, uint16 or float32, bright = dense (MONOCHROME2 sense), full stored precision.
        value_range: pixel values that stand for black and white, or None: take robust percentiles.
        sha256: digest (hex) of the source file's bytes, or of an archive row's bytes.
        source_format: short name such as `dicom CR` or `png`.
        spacing_mm: distance of pixel centres in mm down the image (rows), or None if unknown.
        pixel_aspect: width over height of a stored pixel.
        view: view position such as `PA`, empty if unknown.
        sex: `F`, `M`, `O` or empty.
        age_years: age in years, or None.
        patient: the patient id read from the file, or None if the task already knows it.
        frame: number (from 1 on) of the frame if every frame of a file is read, or None.
    """

    pixels: npt.NDArray[np.generic]
    value_range: tuple[float, float] | None
    sha256: str
    source_format: str
    spacing_mm: float | None = None
    pixel_aspect: float = 1.0
    view: str = ""
    sex: str = ""
    age_years: float | None = None
    patient: str | None = None
    frame: int | None = None


def source_prefix(number: int) -> str:
    """Return the prefix of names of the source at a position of the manifest."""
    return f"{number}:" if number else ""


def age_band(years: float | None) -> str:
    """Return the ten-year band of an age, such as `40-49`; from 90 on `90+`; empty if unknown or absurd."""
    if years is None or not 0 <= years <= 130:
        return ""
    decade = int(years // 10) * 10
    return "90+" if decade >= 90 else f"{decade}-{decade + 9}"


def sex_code(text: object) -> str:
    """Return `F`, `M` or `O` for a table cell or a DICOM value, empty for anything else."""
    first = str(text or "").strip().upper()
    return {"F": "F", "FEMALE": "F", "M": "M", "MALE": "M", "O": "O", "OTHER": "O"}.get(first, "")


def check_size(height: int, width: int) -> None:
    """Refuse an image without pixels or with more than `MAX_PIXELS`.

    Raises:
        ScanRefusedError: the size is out of bounds.
    """
    if height < 1 or width < 1:
        raise ScanRefusedError("no pixels")
    if height * width > MAX_PIXELS:
        raise ScanRefusedError("image too large")


def read_bounded(root: str, name: str) -> bytes:
    """Return the bytes of a file below `root`, read once.

    Raises:
        ScanRefusedError: no regular file there, it is too large, or a link leads out of the folder.
    """
    folder = Path(root)
    path = folder / name
    if path.is_symlink() or ".." in Path(name).parts:
        _inside(path, folder)
    try:
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            if status.st_size > MAX_FILE_BYTES:
                raise ScanRefusedError("file too large")
            if status.st_size == 0:
                raise ScanRefusedError("empty file")
            return stream.read(status.st_size)
    except FileNotFoundError as error:
        raise ScanRefusedError("file missing") from error
    except (OSError, ValueError) as error:
        raise ScanRefusedError("file unreadable") from error


def _inside(path: Path, folder: Path) -> None:
    try:
        inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as error:
        raise ScanRefusedError("file unreadable") from error
    if not inside:
        raise ScanRefusedError("leads out of the source folder")


def walk_files(root: Path, *, field: str) -> Iterator[tuple[str, int, int]]:
    """Yield (relative name, bytes, mtime in ns) of all files below `root`, sorted; hidden ones are skipped.

    Folders that are links are not entered, so a walk ends and stays inside.

    Raises:
        DataError: the folder is missing or cannot be read.
    """
    if not root.is_dir():
        raise DataError(
            "no such folder", field=field, value=str(root), remedy="Correct the path in the manifest."
        )
    try:
        yield from _walk(str(root), "")
    except PermissionError as error:
        raise DataError(
            "the folder, or one below it, cannot be read",
            field=field,
            value=str(root),
            remedy="Give yourself read access (chmod u+rX) and run again.",
        ) from error


def _walk(folder: str, prefix: str) -> Iterator[tuple[str, int, int]]:
    with os.scandir(folder) as entries:
        found = sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda e: e.name)
    for entry in found:
        name = prefix + entry.name
        if entry.is_dir(follow_symlinks=False):
            yield from _walk(entry.path, name + "/")
        elif entry.is_symlink() or entry.is_file(follow_symlinks=False):
            status = entry.stat(follow_symlinks=False)
            yield name, status.st_size, status.st_mtime_ns
