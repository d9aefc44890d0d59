"""Finds arrays of numbers within a buffer: pixels and weights, where short texts occur by chance."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np

MIN_LENGTH_IN_NUMBERS = 16
"""Length, in characters, from which a value counts within an array of numbers.

Neighbouring pixels differ little, so a dark corner of a radiograph (values 48 to 57) is a text of digits, and
a brighter one a text of letters. Any date and any name occurs among a thousand million pixels. Escapes
(base64 and the like) are not decoded in arrays; compressed streams within arrays are searched as elsewhere.
"""

_NPY = b"\x93NUMPY"
_PIXEL_DATA = re.compile(rb"\xe0\x7f\x10\x00(?:O[BW]\x00\x00)?")
_DICM_AT, _DICM = 128, b"DICM"
_TEXT_SHARE = 0.9
_PRINTABLE = np.zeros(256, dtype=bool)
_PRINTABLE[[0, 9, 10, 13, *range(32, 127)]] = True
_MAX_HEADER = 2**20


def split_numbers(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield the pieces of `data` in order, each with whether it is an array of numbers.

    The known formats are numpy arrays of numbers, safetensors and DICOM pixel data. Bytes after the declared
    end of an array are not part of it. An array of which nine in ten bytes are printable is text.
    """
    span = _span(data)
    if span is None or reads_as_text(data[span[0] : span[1]]):
        yield data, False
        return
    start, stop = span
    yield data[:start], False
    yield data[start:stop], True
    if data[stop:]:
        yield data[stop:], False


def reads_as_text(data: bytes) -> bool:
    """Return whether at least nine in ten bytes are printable ASCII or zero, and not only zero."""
    codes = np.frombuffer(data, dtype=np.uint8)
    if not len(codes):
        return True
    if _PRINTABLE[codes].mean() < _TEXT_SHARE:
        return False
    return bool(np.count_nonzero(codes) >= len(codes) / 8)


def _span(data: bytes) -> tuple[int, int] | None:
    """Return where the array of numbers of a known format starts and stops, or None."""
    try:
        if data.startswith(_NPY):
            return _npy(data)
        if data[_DICM_AT : _DICM_AT + 4] == _DICM:
            found = _PIXEL_DATA.search(data)
            return (found.end(), len(data)) if found else None
        return _safetensors(data)
    except (ValueError, SyntaxError, KeyError, TypeError, IndexError, RecursionError, MemoryError):
        return None


def _npy(data: bytes) -> tuple[int, int] | None:
    """Read the header of numpy's format (NEP 1)."""
    width = 2 if data[6] == 1 else 4
    start = 8 + width + int.from_bytes(data[8 : 8 + width], "little")
    if start > _MAX_HEADER:
        return None
    header: dict[str, Any] = ast.literal_eval(data[8 + width : start].decode("latin-1").strip())
    kind = np.dtype(header["descr"])
    if kind.kind not in "biufc":
        return None
    return start, min(start + prod(header["shape"]) * kind.itemsize, len(data))


def _safetensors(data: bytes) -> tuple[int, int] | None:
    length = int.from_bytes(data[:8], "little")
    if data[8:9] != b"{" or not 2 <= length <= min(len(data) - 8, 64 * _MAX_HEADER):
        return None
    header: dict[str, Any] = json.loads(data[8 : 8 + length])
    ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    return (8 + length, min(8 + length + max(ends), len(data))) if ends else None
