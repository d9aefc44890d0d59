"""The allow-list of attributes that are read from a DICOM file, and the location of its pixel data."""

from __future__ import annotations

import contextlib
import functools
import logging
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ScanRefusedError
from pipeline.scan_attributes import SCAN_ATTRIBUTES

Values = dict[str, Any]
"""Keyword -> value: a tuple of numbers, a stripped string, or a list of data sets for a sequence."""

# fmt: off
WANTED: Mapping[int, tuple[str, str]] = {
    0x00080016: ("SOPClassUID", "UI"),
    0x00080060: ("Modality", "CS"),
    0x00181164: ("ImagerPixelSpacing", "DS"),
    0x00181600: ("ShutterShape", "CS"),
    0x00181602: ("ShutterLeftVerticalEdge", "IS"),
    0x00181604: ("ShutterRightVerticalEdge", "IS"),
    0x00181606: ("ShutterUpperHorizontalEdge", "IS"),
    0x00181608: ("ShutterLowerHorizontalEdge", "IS"),
    0x00181610: ("CenterOfCircularShutter", "IS"),
    0x00181612: ("RadiusOfCircularShutter", "IS"),
    0x00181620: ("VerticesOfThePolygonalShutter", "IS"),
    0x00280002: ("SamplesPerPixel", "US"),
    0x00280004: ("PhotometricInterpretation", "CS"),
    0x00280006: ("PlanarConfiguration", "US"),
    0x00280008: ("NumberOfFrames", "IS"),
    0x00280010: ("Rows", "US"),
    0x00280011: ("Columns", "US"),
    0x00280030: ("PixelSpacing", "DS"),
    0x00280034: ("PixelAspectRatio", "IS"),
    0x00280100: ("BitsAllocated", "US"),
    0x00280101: ("BitsStored", "US"),
    0x00280102: ("HighBit", "US"),
    0x00280103: ("PixelRepresentation", "US"),
    0x00280120: ("PixelPaddingValue", "US or SS"),
    0x00280121: ("PixelPaddingRangeLimit", "US or SS"),
    0x00281050: ("WindowCenter", "DS"),
    0x00281051: ("WindowWidth", "DS"),
    0x00281052: ("RescaleIntercept", "DS"),
    0x00281053: ("RescaleSlope", "DS"),
    0x00281056: ("VOILUTFunction", "CS"),
    0x00281101: ("RedPaletteColorLookupTableDescriptor", "US or SS"),
    0x00281102: ("GreenPaletteColorLookupTableDescriptor", "US or SS"),
    0x00281103: ("BluePaletteColorLookupTableDescriptor", "US or SS"),
    0x00281201: ("RedPaletteColorLookupTableData", "OW"),
    0x00281202: ("GreenPaletteColorLookupTableData", "OW"),
    0x00281203: ("BluePaletteColorLookupTableData", "OW"),
    0x00281221: ("SegmentedRedPaletteColorLookupTableData", "OW"),
    0x00281222: ("SegmentedGreenPaletteColorLookupTableData", "OW"),
    0x00281223: ("SegmentedBluePaletteColorLookupTableData", "OW"),
    0x00283000: ("ModalityLUTSequence", "SQ"),
    0x00283010: ("VOILUTSequence", "SQ"),
    0x20500010: ("PresentationLUTSequence", "SQ"),
    0x20500020: ("PresentationLUTShape", "CS"),
    0x52009229: ("SharedFunctionalGroupsSequence", "SQ"),
    0x52009230: ("PerFrameFunctionalGroupsSequence", "SQ"),
    0x7FE00001: ("ExtendedOffsetTable", "OV"),
    0x7FE00002: ("ExtendedOffsetTableLengths", "OV"),
    0x7FE00008: ("FloatPixelData", "OF"),
    0x7FE00009: ("DoubleFloatPixelData", "OD"),
    0x7FE00010: ("PixelData", "OB or OW"),
    **{kept.tag: (kept.keyword, kept.vr) for kept in SCAN_ATTRIBUTES.values() if kept.keyword},
}
# fmt: on
"""Tag -> (keyword, value representation) of all parsed attributes except the manifest's patient tag."""

OVERLAY_GROUPS = range(0x6000, 0x6020, 2)

_OVERLAYS = {
    group << 16 | element: (f"{keyword} {group:04X}", "US")
    for group in OVERLAY_GROUPS
    for element, keyword in ((0x100, "OverlayBitsAllocated"), (0x102, "OverlayBitPosition"))
}
"""Tag -> (keyword and group, value representation) of the attributes that locate overlay bits."""

PIXEL_TAGS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
DEFLATED, BIG_ENDIAN = "1.2.840.10008.1.2.1.99", "1.2.840.10008.1.2.2"
_DIRECTORY_CLASS = "1.2.840.10008.1.3.10"


@dataclass(slots=True)
class Header:
    """The allow-listed attributes of a file and its pixel data.

    Attributes:
        values: keyword -> value of the attributes in the file.
        syntax: transfer syntax UID.
        storage: SOP class UID in the file meta information; may be empty.
        pixels: bytes that hold the pixel data; may be the whole file, which saves a copy.
        start: offset of the value of the pixel data in `pixels`.
        length: length of the value in bytes; encapsulated data extend to the end of `pixels`.
        keyword: `PixelData`, `FloatPixelData` or `DoubleFloatPixelData`; empty without pixel data.
        pixel_vr: value representation of the pixel data.
        in_items: whether the pixel data have undefined length: they are encapsulated (PS3.5 A.4).
    """

    values: Values
    syntax: str
    storage: str = ""
    pixels: bytes = b""
    start: int = 0
    length: int = 0
    keyword: str = ""
    pixel_vr: str = "OW"
    in_items: bool = False

    def number(self, keyword: str, default: int) -> int:
        """Return the first number of an attribute as an integer, or the default if it is absent."""
        found = self.values.get(keyword)
        return int(found[0]) if found else default

    def text(self, keyword: str) -> str:
        """Return the text of an attribute; empty if it is absent."""
        return str(self.values.get(keyword, ""))

    @property
    def is_directory(self) -> bool:
        """Whether the file is a DICOMDIR."""
        return _DIRECTORY_CLASS in {self.storage, self.text("SOPClassUID")}


@functools.cache
def wanted(patient_tag: str) -> dict[int, tuple[str, str]]:
    """Return tag -> (keyword, value representation) of all attributes to parse.

    Args:
        patient_tag: keyword of the manifest's patient tag; may be empty.

    Raises:
        ScanRefusedError: no DICOM attribute has this keyword.
    """
    if not patient_tag:
        return {**WANTED, **_OVERLAYS}
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    number = tag_for_keyword(patient_tag)
    if number is None:
        raise ScanRefusedError("patient tag unknown")
    return {**WANTED, **_OVERLAYS, int(number): (patient_tag, dictionary_VR(number))}


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Suppress warnings and log records of pydicom and its decoders, because they quote header values."""
    loggers = [logging.getLogger(name) for name in ("pydicom", "pylibjpeg", "libjpeg", "openjpeg")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
