"""Whether a PNG or TIFF file has the data of all its rows; Pillow and libtiff are silent about the rest."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

from pipeline.errors import ScanRefusedError
from pipeline.sources.base import MAX_PIXELS
from pipeline.sources.images.jpeg_scans import scans_of, with_foreign_bytes, without_end

_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples a pixel of each colour type of PNG."""

_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""First row, first column, and steps of both, of the passes of an interlaced PNG (ISO/IEC 15948, 8.2)."""

_PIECE = 2**18
_ROOM = 2
"""By how much the tiles of a picture may exceed its largest size, since those at the border are whole."""

_STRIPS, _TILES, _TABLES = (273, 279), (324, 325), 347
MAX_STRIPS = 70_000
"""Most strips or tiles of a TIFF file of JPEG pictures; 65,535 rows have no more."""


def check_png(data: bytes) -> None:
    """Refuse a PNG whose compressed data end before its last row, or do not agree with their checksum.

    Raises:
        ScanRefusedError: rows are missing.
        zlib.error: corrupt.
        struct.error: no header.
    """
    width, height, bits, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    sample_bits = bits * _SAMPLES.get(colour, 1)
    sizes = [(height, width)]
    if interlaced:
        sizes = [(-(-(height - row) // down), -(-(width - column) // across))
                 for row, column, down, across in _PASSES]  # fmt: skip
    left = sum(rows * (1 + -(-columns * sample_bits // 8)) for rows, columns in sizes if rows > 0 < columns)
    unpacker = zlib.decompressobj()
    for chunk in _image_chunks(data):
        rest = chunk
        while rest and not unpacker.eof:
            left -= len(unpacker.decompress(rest, _PIECE))
            rest = unpacker.unconsumed_tail
            if left < -_PIECE:
                return
    if left > 0:
        raise ScanRefusedError("truncated image")


def _image_chunks(data: bytes) -> Iterator[bytes]:
    position = 8
    while position + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        if kind == b"IDAT":
            yield data[position + 8 : position + 8 + length]
        if kind == b"IEND":
            return
        position += 12 + length


def check_tiff(data: bytes, image: Any) -> None:
    """Refuse a TIFF file of JPEG pictures, strip by strip or tile by tile, that lacks a part of one of them.

    Args:
        data: the file's bytes.
        image: the file, opened by Pillow.

    Raises:
        ScanRefusedError: truncated, or too many strips.
        OSError: a strip cannot be decoded.
    """
    if image.info.get("compression") != "jpeg":
        return
    tags = image.tag_v2
    offsets, counts = next(
        (
            (tags[first], tags[second])
            for first, second in (_STRIPS, _TILES)
            if first in tags and second in tags
        ),
        ((), ()),
    )
    if not 0 < len(offsets) == len(counts) <= MAX_STRIPS:
        raise ScanRefusedError("truncated image")
    # The tables stand once, in a picture without scans.
    tables = bytes(tags.get(_TABLES, b""))[2:-2]
    left = _ROOM * MAX_PIXELS
    for offset, count in zip(offsets, counts, strict=True):
        strip = data[offset : offset + count]
        left -= _check_strip(strip[:2] + tables + strip[2:], left)


def _check_strip(strip: bytes, most: int) -> int:
    """Return the number of pixels of a strip that is whole, and has no more than `most`."""
    scans = scans_of(strip)
    scans.check()
    if scans.is_plain:
        return len(_pixels(without_end(strip, scans), most))
    pixels = _pixels(strip, most)
    if not scans.num_scans or pixels != _pixels(with_foreign_bytes(strip, scans), most):
        raise ScanRefusedError("truncated image")
    return len(pixels)


def _pixels(strip: bytes, most: int) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(strip), formats=("JPEG",)) as picture:
        # A strip's own size need not be that of the file.
        if picture.height * picture.width > most:
            raise ScanRefusedError("image too large")
        return bytes(picture.convert("L").tobytes())
