"""Records of a scan before and after reading, and size limits for all readers."""

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
"""Largest number of pixels that is decoded; a radiograph has about 10 million, a mammogram 30 million."""

MAX_SIDE = 65_535
"""Longest side of an image in pixels, the limit of DICOM."""

OWN_PATIENT = "\0own:"
"""Prefix of the substitute patient id of a scan that is its own patient; no table can contain it."""

BEYOND_BITS = "values_beyond_bits"
"""Quality flag: the file declares fewer bits than its pixel values have."""


@dataclass(frozen=True, slots=True)
class DicomOptions:
    """Options for reading the DICOM files of a source.

    Attributes:
        frames: treatment of multi-frame images: `refuse`, `first`, `middle`, `each` (each frame is a scan),
            or a frame number, from 1.
        window: index of the window or VOI LUT to apply, from 0, or `none` for the stored range.
        headless: read files without preamble or file meta information.
        colour: treatment of colour images: `refuse`, or `grey` for their luma.
    """

    frames: str = "refuse"
    window: str = "0"
    headless: bool = False
    colour: str = "refuse"


@dataclass(frozen=True, slots=True)
class NiftiOptions:
    """Options for reading the NIfTI files of a source.

    Attributes:
        projection: treatment of volumes: `none` (refuse), `middle`, `mean` or `max`.
        axis: axis of the projection, for a volume in RAS+ orientation.
        window: values mapped to black and white, or None for robust percentiles.
    """

    projection: str = "none"
    axis: int = 1
    window: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class ImageOptions:
    """Options for reading the PNG, JPEG or TIFF files of a source.

    Attributes:
        colour: treatment of colour images: `refuse`, or `grey` for their luma.
    """

    colour: str = "refuse"


@dataclass(frozen=True, slots=True)
class Asked:
    """Request of ingest to the sources of a manifest.

    Attributes:
        phantom_patients: number of patients of a phantom, or None for the manifest's.
        image_size: side of the cohort's images in pixels, or None for the smallest available.
    """

    phantom_patients: int | None = None
    image_size: int | None = None


@dataclass(frozen=True, slots=True)
class ReadRule:
    """Rule by which all scans of one source are read.

    Attributes:
        kind: kind of source (`pipeline.manifest.kinds.table`) whose reader is used.
        root: absolute path, or address of a server. Identifying: never written or logged.
        patient_tag: DICOM keyword of the patient id; empty if the patient has another source.
        prefix: prefix that makes file names unique over all sources; empty for the first source.
        store: kind of `root`: `folder`, `zip`, `tar`, `dicomdir`, `dicomweb`, or `npz` (the reader's own).
        web: access to a `dicomweb` store, with names of variables instead of secrets.
        options: options of the reader, such as `DicomOptions`: frozen, picklable, and with a complete `repr`;
            None for the reader's defaults.
    """

    kind: str
    root: str
    patient_tag: str = ""
    prefix: str = ""
    store: str = "folder"
    web: WebAccess | None = None
    options: object = None

    def read_with(self, kind: type[OptionsT]) -> OptionsT:
        """Return the options if they are of the class `kind`, else the defaults of that class."""
        return self.options if isinstance(self.options, kind) else kind()


@dataclass(frozen=True, slots=True)
class ScanTask:
    """Scan (or file with several scans) to read: small, picklable and without pixels.

    Attributes:
        rule: rule by which scans of its source are read.
        name: relative file name, or `part/row` of an archive. Identifying: never written or logged.
        label: class name; empty only if `refusal` gives the reason.
        patient: patient id, a substitute that starts with `OWN_PATIENT`, or None to read it from the file.
        published: part of each published split of the source, in the manifest's order.
        pixel_aspect: width of a stored pixel divided by its height.
        refusal: reason for refusing the scan without reading it, or empty.
        claimed: patient in a table that the pixels do not confirm; used in reports on published splits,
            never for splitting.
        stamp: text that changes with the file's content; empty if unknown.
        attributes: values from a table, in the order of `SCAN_ATTRIBUTES`; unknown ones are empty.
        findings: one byte per finding of a multi-label manifest: 0 absent, 1 present, 2 uncertain.
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
        """Name that is unique over all sources; the scan's pseudonym is its HMAC."""
        return self.rule.prefix + self.name


@dataclass(frozen=True, slots=True)
class Scan:
    """Decoded scan: pixels and allow-listed attributes, and nothing else from the header.

    Attributes:
        pixels: (H, W) uint8, uint16 or float32 with the full stored precision; dense tissue is bright
            (MONOCHROME2).
        value_range: pixel values mapped to black and white, or None for robust percentiles.
        sha256: digest (hex) of the source file's bytes, or of an archive row's bytes.
        source_format: short name such as `dicom CR` or `png`.
        spacing_mm: distance in mm between the centres of adjacent rows, or None if unknown.
        pixel_aspect: width of a stored pixel divided by its height.
        attributes: values in the order of `SCAN_ATTRIBUTES`; unknown ones are empty.
        patient: patient id in the file, or None if the task already has it.
        frame: frame number, from 1, if each frame of a file is a scan.
        flags: quality flags that depend on the file.
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
    """Return the name prefix of the source at this position of the manifest."""
    return f"{number}:" if number else ""


def check_size(height: int, width: int) -> None:
    """Check the size of an image in pixels.

    Raises:
        ScanRefusedError: the image is empty, has more than `MAX_PIXELS` pixels, or a side over `MAX_SIDE`.
    """
    if height < 1 or width < 1:
        raise ScanRefusedError("no pixels")
    if height * width > MAX_PIXELS or max(height, width) > MAX_SIDE:
        raise ScanRefusedError("image too large")
