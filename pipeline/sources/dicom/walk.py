"""A plain walk over the elements of a little-endian DICOM data set, for the attributes of an allow-list.

Nothing is converted that is not on the list, and nested data sets are stepped over. Whatever is unusual
(an unknown value representation, elements out of order, a listed sequence with content, text that is not
ASCII) ends the walk with an error: then pydicom reads the file. Layout: PS3.5, sections 7.1 and 7.5.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Container, Mapping
from typing import Any, NamedTuple

SHORT_VRS = frozenset(
    b"AE AS AT CS DA DS DT FL FD IS LO LT PN SH SL SS ST TM UI UL US".split()
)  # a length of two bytes
LONG_VRS = frozenset(b"OB OD OF OL OV OW SQ SV UC UN UR UT UV".split())  # a length of four bytes

MAX_ELEMENTS = 500_000
"""Most elements and items that are stepped over."""

UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
_DEPTH = 32
_REPRESENTATION = 0x00280103
_PIXELS = frozenset({0x7FE00008, 0x7FE00009, 0x7FE00010})
_HEAD = struct.Struct("<HH2sH").unpack_from
_LENGTH = struct.Struct("<I").unpack_from

_NUMBERS = {"US": "H", "SS": "h"}
_RECURRING = {*_NUMBERS, "DS", "IS", "CS", "UI"}
_SHORT = 64


class Place(NamedTuple):
    """Where the value of an element lies.

    Attributes:
        vr: value representation as written, two bytes; empty in implicit VR.
        start: offset of the value in the bytes.
        length: bytes of the value, or `UNDEFINED`: encapsulated pixel data.
    """

    vr: bytes
    start: int
    length: int


class UnusualError(Exception):
    """The data set is not as plain as the walk needs it; pydicom may still read it."""


def find_elements(  # noqa: PLR0912
    data: bytes, start: int, wanted: Container[int], *, implicit: bool, last: int
) -> tuple[dict[int, Place], int]:
    """Return tag -> place of the wanted top-level elements up to the pixel data, and where the walk ended.

    One flat loop, because a call an element would take longer than all else that is done with it.

    Args:
        data: little-endian bytes.
        start: offset of the first element.
        wanted: tags to return.
        implicit: whether value representations are left out.
        last: stop before the first element whose tag is above this.

    Raises:
        UnusualError: not a well-formed data set, or more than this walk knows.
    """
    found: dict[int, Place] = {}
    position, depth, earlier, end = start, 0, -1, len(data)
    for _ in range(MAX_ELEMENTS):
        if position + 8 > end:
            break
        group, element, vr, length = _HEAD(data, position)
        tag = group << 16 | element
        if not depth:
            if tag > last:
                return found, position
            if tag <= earlier:
                raise UnusualError
            earlier = tag
        body = position + 8
        if implicit or group == 0xFFFE:
            (length,) = _LENGTH(data, position + 4)
            vr = b""
        elif vr in LONG_VRS:
            if position + 12 > end:
                raise UnusualError
            (length,) = _LENGTH(data, position + 8)
            body = position + 12
        elif vr not in SHORT_VRS:
            raise UnusualError
        if not depth and tag in wanted:
            found[tag] = Place(vr, body, length)
            if tag in _PIXELS:
                return found, body
        position = body + length
        if length == UNDEFINED:
            # A sequence or an item that ends with a delimiter: go down into it, keeping nothing.
            if vr not in {b"SQ", b""} or tag in {_ITEM_END, _SEQUENCE_END} or depth >= _DEPTH:
                raise UnusualError
            depth, position = depth + 1, body
        elif tag in {_ITEM_END, _SEQUENCE_END}:
            depth -= 1
    if position != end or depth:
        raise UnusualError
    return found, position


def values_of(
    data: bytes, places: Mapping[int, Place], wanted: Mapping[int, tuple[str, str]]
) -> dict[str, Any]:
    """Return keyword -> value of the wanted elements that have one: a tuple of numbers, or text.

    Args:
        data: the bytes that the places point into.
        places: tag -> place.
        wanted: tag -> (keyword, value representation by the dictionary), of all places.

    Raises:
        UnusualError: a value is not what its value representation says, or not plain.
    """
    values: dict[str, Any] = {}
    kind = places.get(_REPRESENTATION)
    signed = kind is not None and data[kind.start : kind.start + 1] == b"\1"
    for tag, place in places.items():
        if place.length and tag not in _PIXELS:
            keyword, vr = wanted[tag]
            value = _convert(data, place, vr, signed)
            if value:
                values[keyword] = value
    return values


def _convert(data: bytes, place: Place, vr: str, signed: bool) -> Any:
    """Return an element's value; `signed` decides on `US or SS` in implicit VR."""
    written = place.vr.decode("ascii") or ("SS" if signed and vr == "US or SS" else vr[:2])
    value = data[place.start : place.start + place.length]
    if written not in vr or len(value) != place.length:
        raise UnusualError
    # What most files of an archive say alike is converted once; texts may be a patient's own.
    return (_shared if written in _RECURRING and place.length <= _SHORT else _plain)(written, value)


def _plain(written: str, value: bytes) -> Any:
    try:
        if written in _NUMBERS:
            return struct.unpack(f"<{len(value) // 2}{_NUMBERS[written]}", value)
        if written in {"DS", "IS"}:
            number = int if written == "IS" else float
            value = value.strip(b" \0")
            return tuple(number(part) for part in value.split(b"\\")) if value else ()
        if written in {"AS", "CS", "LO", "SH", "UI"} and b"\x1b" not in value:
            return value.decode("ascii").strip(" \0")
    except (ValueError, struct.error) as error:
        raise UnusualError from error
    raise UnusualError


_shared = functools.lru_cache(maxsize=4096)(_plain)
