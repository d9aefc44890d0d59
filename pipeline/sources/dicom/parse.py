"""Parses a DICOM file by the allow-list: plainly where its encoding is plain, with pydicom otherwise."""

from __future__ import annotations

from pipeline.errors import ScanRefusedError
from pipeline.sources.dicom.deflate import inflate
from pipeline.sources.dicom.header import BIG_ENDIAN, DEFLATED, IMPLICIT, PIXEL_TAGS, Header, wanted
from pipeline.sources.dicom.walk import UNDEFINED, Place, UnusualError, find_elements, values_of

_SYNTAX, _CLASS = 0x00020010, 0x00020002
_LAST_META, _LAST = 0x0002FFFF, 0x7FE00010


def parse(data: bytes, patient_tag: str, *, headless: bool) -> Header:
    """Parse a file by the allow-list.

    Args:
        data: the file's bytes.
        patient_tag: keyword of one more attribute to take, or empty.
        headless: whether files without preamble or file meta information are read.

    Raises:
        ScanRefusedError: not DICOM, headless although that is not asked for, or corrupt.
    """
    if data[128:132] == b"DICM":
        try:
            return plain_header(data, patient_tag)
        except UnusualError:
            pass
    elif not _looks_headless(data):
        raise ScanRefusedError("not a DICOM file")
    elif not headless:
        raise ScanRefusedError("no DICOM preamble; headless files are not asked for")
    from pipeline.sources.dicom.tolerant import parse_with_pydicom

    return parse_with_pydicom(data, patient_tag, headless=headless)


def plain_header(data: bytes, patient_tag: str) -> Header:
    """Return the header of a file with preamble, transfer syntax and a plain little-endian data set.

    Raises:
        UnusualError: it needs pydicom.
        ScanRefusedError: deflated data that are corrupt or too large.
    """
    # File meta information (PS3.10, 7.1): explicit little endian, whatever follows.
    try:
        meta, start = find_elements(data, 132, (_SYNTAX, _CLASS), implicit=False, last=_LAST_META)
    except UnusualError:
        if DEFLATED.encode() in data[132:2048]:
            raise ScanRefusedError("corrupt DICOM file") from None
        raise
    syntax, storage = _text(data, meta, _SYNTAX), _text(data, meta, _CLASS)
    if not syntax or syntax == BIG_ENDIAN:
        raise UnusualError
    if syntax == DEFLATED:
        return _deflated_header(inflate(data[start:]), patient_tag, storage)
    return _plain(data, start, patient_tag, Header({}, syntax, storage))


def _deflated_header(data: bytes, patient_tag: str, storage: str) -> Header:
    """Return the header of a data set that has been unpacked."""
    try:
        return _plain(data, 0, patient_tag, Header({}, DEFLATED, storage))
    except UnusualError:
        from pipeline.sources.dicom.tolerant import parse_with_pydicom

        header = parse_with_pydicom(data, patient_tag, headless=True)
        header.syntax, header.storage = DEFLATED, storage
        return header


def _plain(data: bytes, start: int, patient_tag: str, header: Header) -> Header:
    chosen = wanted(patient_tag)
    places, _ = find_elements(data, start, chosen, implicit=header.syntax == IMPLICIT, last=_LAST)
    header.values = values_of(data, places, chosen)
    for tag in places.keys() & PIXEL_TAGS:
        place = places[tag]
        header.keyword, header.pixels, header.start = chosen[tag][0], data, place.start
        header.length = min(place.length, len(data) - place.start)
        header.pixel_vr = place.vr.decode("ascii") or "OW"
        header.in_items = place.length == UNDEFINED
    return header


def _text(data: bytes, places: dict[int, Place], tag: int) -> str:
    place = places.get(tag)
    if place is None:
        return ""
    return data[place.start : place.start + place.length].decode("ascii", "replace").strip(" \0")


def _looks_headless(data: bytes) -> bool:
    """Tell whether bytes without preamble may start with a DICOM element of a low group (2 or 8)."""
    if data[:4] == b"DICM":
        return True
    little = data[:2] in {b"\x02\x00", b"\x08\x00"} and data[3:4] == b"\0"
    big = data[:3] in {b"\x00\x02\x00", b"\x00\x08\x00"} and data[3:4] != b"\0"
    return len(data) > 16 and (little or big)
