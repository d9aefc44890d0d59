"""Inflates deflated data sets (PS3.5 A.5) up to a size limit."""

from __future__ import annotations

import zlib

from pipeline.errors import ScanRefusedError

MAX_INFLATED_BYTES = 256 * 2**20
"""Largest inflated data set: an image of `MAX_PIXELS` 16-bit words and a header."""


def inflate(data: bytes, limit: int = 0) -> bytes:
    """Return the inflated data set.

    Args:
        data: deflated bytes.
        limit: largest size of the result in bytes; 0 for `MAX_INFLATED_BYTES`.

    Raises:
        ScanRefusedError: the data are corrupt, or the result is larger than the limit.
    """
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        inflated = inflater.decompress(data, limit or MAX_INFLATED_BYTES)
    except zlib.error as error:
        raise ScanRefusedError("deflated data corrupt") from error
    if inflater.unconsumed_tail:
        raise ScanRefusedError("file too large")
    return inflated
