"""A scan to read, a scan that was read, and the bounds that every reader of outside files keeps."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanRefusedError
from pipeline.manifest.web_access import WebAccess
from pipeline.scan_attributes import nothing_told

OptionsT = TypeVar("OptionsT")

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
class NiftiOptions:
    """How the NIfTI files of a source are read.

    Attributes:
        projection: what to take of a volume: `none`, `middle`, `mean` or `max`.
        axis: along which axis of a volume in RAS+ orientation.
        window: values that become black and white, or None: robust percentiles.
    """

    projection: str = "none"
    axis: int = 1
    window: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """How the PNG, JPEG or TIFF files of a source are read.

    Attributes:
        colour: a truly colourful image is refused (`refuse`) or shown by its luma (`grey`).
    """

    colour: str = "refuse"


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of the sources of a manifest beside what it says itself.

    Attributes:
        phantom_patients: number of patients of a phantom, or None: the manifest's.
        image_size: side of the cohort's images in pixels, or None: as small as there are.
    """

    phantom_patients: int | None = None
    image_size: int | None = None


@dataclass(frozen=True, slots=True)
class ReadRule:
    """What all scans of one source share when they are read.

    Attributes:
        kind: the kind of source (`pipeline.manifest.kinds.table`) as which a scan is read.
        root: absolute path, or address of a server. Identifying: never written or logged.
        patient_tag: DICOM keyword of the patient id, empty if the patient is known otherwise.
        prefix: tells equal file names of several sources apart; empty for the first source.
        store: what `root` is: `folder`, `zip`, `tar`, `dicomdir`, `dicomweb`, or `npz` (the reader's own).
        web: how a `dicomweb` store is asked; names of variables, no secrets.
        options: what else the kind's reader needs, such as `DicomOptions`: frozen, picklable, and of a `repr`
            that tells it whole; None stands for the reader's defaults.
    """

    kind: str
    root: str
    patient_tag: str = ""
    prefix: str = ""
    store: str = "folder"
    web: WebAccess | None = None
    options: object = None

    def read_with(self, kind: type[OptionsT]) -> OptionsT:
        """Return the options of a reader, its defaults where the rule holds none of this class."""
        return self.options if isinstance(self.options, kind) else kind()


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
        refusal: why the scan cannot be used, known before it is read; empty if nothing is known.
        claimed: patient that a table names but the pixels do not confirm: counted in reports on published
            splits, never used for splitting.
        stamp: text that changes when the file's content does; empty if nothing is known.
        attributes: what a table tells, in the order of `SCAN_ATTRIBUTES`; empty texts where it does not.
        findings: 0 absent, 1 present or 2 uncertain, one byte for each finding of a multi-label manifest.
    """

    rule: ReadRule
    name: str
    label: str = ""
    patient: str | None = None
    published: tuple[str, ...] = ()
    pixel_aspect: float = 1.0
    refusal: str = ""
    claimed: str = ""
    stamp: str = ""
    attributes: tuple[str, ...] = field(default_factory=nothing_told)
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
        attributes: values in the order of `SCAN_ATTRIBUTES`, empty texts where they are not known.
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
    attributes: tuple[str, ...] = field(default_factory=nothing_told)
    patient: str | None = None
    frame: int | None = None
    flags: tuple[str, ...] = ()


def source_prefix(number: int) -> str:
    """Return the prefix of names of the source at a position of the manifest."""
    return f"{number}:" if number else ""


def check_size(height: int, width: int) -> None:
    """Refuse an image without pixels or with more than `MAX_PIXELS`, or one too long.

    Raises:
        ScanRefusedError: the size is out of bounds.
    """
    if height < 1 or width < 1:
        raise ScanRefusedError("no pixels")
    if height * width > MAX_PIXELS or max(height, width) > MAX_SIDE:
        raise ScanRefusedError("image too large")
