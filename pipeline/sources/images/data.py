"""Checks that a PNG or TIFF file has the data of all its rows; Pillow and libtiff accept missing rows."""

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
"""Colour type of PNG -> samples per pixel."""

_PASSES = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
"""(first row, first column, row step, column step) per pass of an interlaced PNG (ISO/IEC 15948, 8.2)."""

_BLOCK = 2**18
_MAX_TILE_EXCESS = 2
"""Largest ratio of the pixels of all tiles to `MAX_PIXELS`; tiles at the border exceed the image."""

_STRIPS, _TILES, _JPEG_TABLES = (273, 279), (324, 325), 347
"""Tags of TIFF 6.0: (offsets, byte counts) of strips and of tiles, and the tables that they share."""

MAX_STRIPS = 70_000
"""Largest number of strips or tiles of a JPEG-compressed TIFF file: about one per row of `MAX_SIDE`."""


def check_png(data: bytes) -> None:
    """Refuse a PNG whose compressed data end before its last row or contradict their checksum.

    Raises:
        ScanRefusedError: rows are missing.
        zlib.error: the compressed data are corrupt.
        struct.error: the header is missing.
    """
    width, height, bits, colour, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    sample_bits = bits * _SAMPLES.get(colour, 1)
    sizes = [(height, width)]
    if interlaced:
        sizes = [(-(-(height - row) // down), -(-(width - column) // across))
                 for row, column, down, across in _PASSES]  # fmt: skip
    missing = sum(rows * (1 + -(-width * sample_bits // 8)) for rows, width in sizes if rows > 0 < width)
    inflater = zlib.decompressobj()
    for chunk in _image_chunks(data):
        rest = chunk
        while rest and not inflater.eof:
            missing -= len(inflater.decompress(rest, _BLOCK))
            rest = inflater.unconsumed_tail
            if missing < -_BLOCK:
                return
    if missing > 0:
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
    """Refuse a JPEG-compressed TIFF file with an incomplete strip or tile.

    Args:
        data: the file's bytes.
        image: the file, opened by Pillow.

    Raises:
        ScanRefusedError: a strip or tile is truncated, or there are too many.
        OSError: a strip or tile cannot be decoded.
    """
    if image.info.get("compression") != "jpeg":
        return
    tags = image.tag_v2
    found = (pair for pair in (_STRIPS, _TILES) if pair[0] in tags and pair[1] in tags)
    offsets, counts = next(((tags[first], tags[second]) for first, second in found), ((), ()))
    if not 0 < len(offsets) == len(counts) <= MAX_STRIPS:
        raise ScanRefusedError("truncated image")
    # The shared tables form a JPEG image without scans, here without its start and end markers.
    tables = bytes(tags.get(_JPEG_TABLES, b""))[2:-2]
    max_pixels = _MAX_TILE_EXCESS * MAX_PIXELS
    for offset, count in zip(offsets, counts, strict=True):
        strip = data[offset : offset + count]
        max_pixels -= _check_strip(strip[:2] + tables + strip[2:], max_pixels)


def _check_strip(strip: bytes, max_pixels: int) -> int:
    """Return the number of pixels of a complete strip with at most `max_pixels`."""
    scans = scans_of(strip)
    scans.check()
    if scans.is_plain:
        return len(_pixels(without_end(strip, scans), max_pixels))
    pixels = _pixels(strip, max_pixels)
    if not scans.num_scans or pixels != _pixels(with_foreign_bytes(strip, scans), max_pixels):
        raise ScanRefusedError("truncated image")
    return len(pixels)


def _pixels(strip: bytes, max_pixels: int) -> bytes:
    from PIL import Image

    with Image.open(io.BytesIO(strip), formats=("JPEG",)) as image:
        # The size in a strip may differ from the size in the file's tags.
        if image.height * image.width > max_pixels:
            raise ScanRefusedError("image too large")
        return bytes(image.convert("L").tobytes())
