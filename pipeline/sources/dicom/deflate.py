"""Unpacks deflated data sets (PS3.5 A.5), up to a limit."""

from __future__ import annotations

import zlib

from pipeline.errors import ScanRefusedError

MAX_INFLATED_BYTES = 256 * 2**20
"""Largest deflated data set once unpacked: an image of `MAX_PIXELS` words and a header."""


def inflate(data: bytes, limit: int = 0) -> bytes:
    """Return a deflated data set (PS3.5 A.5) unpacked, unless it is too large."""
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        unpacked = unpacker.decompress(data, limit or MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise ScanRefusedError("deflated data corrupt") from error
    if unpacker.unconsumed_tail:
        raise ScanRefusedError("file too large")
    return unpacked
