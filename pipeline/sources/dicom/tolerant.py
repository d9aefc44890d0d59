"""Parses DICOM files that are unusual or wrong, with pydicom, into the same header as the plain walk."""

from __future__ import annotations

import io
from typing import Any

from pipeline.errors import ScanRefusedError
from pipeline.scan_attributes import SCAN_ATTRIBUTES
from pipeline.sources.dicom.deflate import inflate
from pipeline.sources.dicom.header import (
    BIG_ENDIAN,
    EXPLICIT,
    IMPLICIT,
    PIXEL_TAGS,
    WANTED,
    Header,
    quiet,
    wanted,
)
from pipeline.sources.dicom.walk import UNDEFINED

MAX_READS = 300_000
"""Most reads that the parser may do of one file; an element takes two or three."""

MAX_ITEMS, MAX_SEQUENCE_BYTES = 100_000, 16 * 2**20
"""Most items, and most bytes, of a sequence that is taken; an object of 10,000 frames has some 60,000."""

MAX_UNCOUNTED_BYTES = 4 * 2**20
"""Largest deflated data set that pydicom unpacks itself: one without a plain file meta information."""

_DISPENSABLE = {
    "Modality", "ImagerPixelSpacing", "PixelSpacing", "PixelAspectRatio", "SOPClassUID",
    "PlanarConfiguration", *(kept.keyword for kept in SCAN_ATTRIBUTES.values()),
}  # fmt: skip
"""Attributes that may be unreadable without making the image so."""


def parse_with_pydicom(data: bytes, patient_tag: str, *, headless: bool) -> Header:
    """Parse with pydicom, which knows how to read much that is unusual or wrong.

    Raises:
        ScanRefusedError: corrupt, nested too deeply, or without transfer syntax unless `headless`.
    """
    import pydicom

    chosen = wanted(patient_tag)
    with quiet():
        try:
            dataset = pydicom.dcmread(_Counted(data), force=True, specific_tags=list(chosen))
            header = Header({}, *_syntax(dataset, headless))
            for tag in [int(tag) for tag in list(dataset.keys())]:
                if tag in PIXEL_TAGS:
                    _set_pixels(header, dataset, tag)
                elif tag in chosen:
                    keyword, vr = chosen[tag]
                    value = plain_value(dataset, tag, keyword, vr)
                    if value:
                        header.values[keyword] = value
        except RecursionError as error:
            raise ScanRefusedError("sequences nested too deeply") from error
        except MemoryError as error:
            raise ScanRefusedError("file too large") from error
        except ScanRefusedError:
            raise
        # pydicom raises many kinds on broken files (InvalidDicomError, AttributeError, struct.error, ...).
        except Exception as error:
            raise ScanRefusedError("corrupt DICOM file") from error
    return header


class _Counted(io.BytesIO):
    """A file that gives up when too many elements are read: each is a few bytes, and an object in memory."""

    _left = MAX_READS

    def read(self, size: int | None = -1, /) -> bytes:
        self._left -= 1
        if self._left < 0:
            raise ScanRefusedError("too many elements")
        if size is None or size < 0:
            # Only a deflated data set is read to its end: pydicom unpacks it, and parses it uncounted.
            rest = super().read()
            inflate(rest, MAX_UNCOUNTED_BYTES)
            return rest
        return super().read(size)


def _syntax(dataset: Any, headless: bool) -> tuple[str, str]:
    """Return the transfer syntax, found by the encoding if the file does not name it, and the SOP class."""
    storage = str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))
    named = str(dataset.file_meta.get("TransferSyntaxUID", "") or "").strip()
    if named:
        return named, storage
    if not headless:
        what = "transfer syntax" if len(dataset.file_meta) else "file meta information"
        raise ScanRefusedError(f"no {what}; headless files are not asked for")
    implicit, little = dataset.original_encoding
    if not little:
        return BIG_ENDIAN, storage
    return IMPLICIT if implicit else EXPLICIT, storage


def _set_pixels(header: Header, dataset: Any, tag: int) -> None:
    element = dataset.get_item(tag)
    value = element.value or b""
    header.keyword, header.pixels, header.length = WANTED[tag][0], value, len(value)
    header.pixel_vr = element.VR or "OW"
    # An element that pydicom has not taken apart yet says so by its length, the others by an attribute.
    header.in_items = (
        getattr(element, "is_undefined_length", False) or getattr(element, "length", 0) == UNDEFINED
    )


def _check_sequence(element: Any) -> None:
    """Refuse a sequence that is not taken apart yet if its items would fill the memory."""
    value = element.value
    if isinstance(value, bytes):
        items = value.count(b"\xfe\xff\x00\xe0") + value.count(b"\xff\xfe\xe0\x00")
        if items > MAX_ITEMS or len(value) > MAX_SEQUENCE_BYTES:
            raise ScanRefusedError("too many elements")


def plain_value(dataset: Any, tag: int, keyword: str, vr: str) -> Any:
    """Return an element's value in the form of `Values`; None if it is unreadable and dispensable.

    Raises:
        ScanRefusedError: the image cannot be read without this value.
    """
    if vr == "SQ":
        _check_sequence(dataset.get_item(tag))
    try:
        value = dataset[tag].value
    except RecursionError:
        raise
    except Exception as error:
        if keyword in _DISPENSABLE:
            return None
        raise ScanRefusedError(f"{keyword} unreadable") from error
    if vr in {"SQ", "OW", "OV"}:
        return value
    several = isinstance(value, (list, tuple)) or type(value).__name__ == "MultiValue"
    parts = list(value) if several else [value]
    try:
        if vr in {"DS", "IS", "US", "US or SS"}:
            number = float if vr == "DS" else int
            return tuple(number(part) for part in parts if part not in (None, ""))
    except (ValueError, TypeError, OverflowError) as error:
        if keyword in _DISPENSABLE:
            return None
        raise ScanRefusedError(f"{keyword} unreadable") from error
    return "\\".join("" if part is None else str(part) for part in parts).strip(" \0")
