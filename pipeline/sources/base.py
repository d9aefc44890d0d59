"""A scan to read, a scan that was read, and the bounds that every reader of outside files keeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanRefusedError
from pipeline.manifest.web_access import WebAccess

MAX_PIXELS = 100_000_000
"""Largest image that is decoded; a computed radiograph has about 10 million pixels, a mammogram 30."""

MAX_SIDE = 65_535
"""Longest side of an image: the most that DICOM can tell."""

OWN_PATIENT = "\0own:"
"""Prefix of the stand-in patient id of a scan that is its own patient; no table can hold it."""

BEYOND_BITS = "values_beyond_bits"
"""Quality flag: the file gives its values fewer bits than they have."""


@dataclass(frozen=True, slots=True)
class DicomOptions:
    """How the DICOM files of a source are read.

    Attributes:
        frames: what to take of an image of several frames: `refuse`, `first`, `middle`, `each` (every frame
            is a scan), or a frame's number, counted from 1.
        window: which of several windows or VOI LUTs to show, counted from 0, or `none`: the stored range.
        headless: read files without preamble or file meta information.
        colour: a truly colourful image is refused (`refuse`) or shown by its luma (`grey`).
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
        root: absolute path, or address of a server. Identifying: never written or logged.
        patient_tag: DICOM keyword of the patient id, empty if the patient is known otherwise.
        projection: what to take of a NIfTI volume.
        axis: along which axis of a volume in RAS+ orientation.
        prefix: tells equal file names of several sources apart; empty for the first source.
        store: what `root` is: `folder`, `zip`, `tar`, `dicomdir`, `dicomweb`, or `npz` (the reader's own).
        dicom: how DICOM files are read.
        web: how a `dicomweb` store is asked; names of variables, no secrets.
        window: values of a NIfTI image that become black and white, or None: robust percentiles.
        colour: a truly colourful PNG, JPEG or TIFF is refused (`refuse`) or shown by its luma (`grey`).
    """

    kind: str
    root: str
    patient_tag: str = ""
    projection: str = "none"
    axis: int = 1
    prefix: str = ""
    store: str = "folder"
    dicom: DicomOptions = DicomOptions()
    web: WebAccess | None = None
    window: tuple[float, float] | None = None
    colour: str = "refuse"


@dataclass(frozen=True, slots=True)
class ScanTask:
    """A scan (or a file of several) that can be read: light, picklable, without pixels.

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
        stamp: text that changes when the file's content does; empty if nothing is known.
        view: view position from a table, empty if unknown.
        findings: 0 absent, 1 present or 2 uncertain, one byte for each finding of a multi-label manifest.
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
    stamp: str = ""
    view: str = ""
    findings: bytes = b""

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
        frame: number of the frame, counted from 1, where each frame of a file is a scan.
        flags: quality flags that only the file itself tells.
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
    flags: tuple[str, ...] = ()


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
    """Refuse an image without pixels or with more than `MAX_PIXELS`, or one too long.

    Raises:
        ScanRefusedError: the size is out of bounds.
    """
    if height < 1 or width < 1:
        raise ScanRefusedError("no pixels")
    if height * width > MAX_PIXELS or max(height, width) > MAX_SIDE:
        raise ScanRefusedError("image too large")
