"""Checks the markers of a JPEG 2000 codestream (ISO/IEC 15444-1, annex A) before decoding.

The decoder leaves tiles without data black, and allocates memory for everything that the markers declare.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

from pipeline.errors import ScanRefusedError

MAX_VALUES = 60_000_000
"""Largest number of values in all components together; decoding takes at least ten bytes per value."""

MAX_TILES = 8_192
"""Largest number of tiles; decoding takes about ten kilobytes per tile of any size. An image of 60 million
pixels has 916 tiles of 256 x 256."""

MAX_BLOCKS = 2**20
"""Largest number of code blocks and precincts of a tile; 60 million pixels have 14,649 blocks of 64 x 64."""

MAX_PACKETS = 2**24
"""Largest number of packets of a tile: one per precinct and layer."""

_SIZE = struct.Struct(">H8IH")
_PART = struct.Struct(">HHIBB")
_START_OF_DATA, _START_OF_PART, _END = 0xFF93, 0xFF90, 0xFFD9
_CODING, _CODING_OF_COMPONENT = 0xFF52, 0xFF53
_DEFAULT_PRECINCTS = 0xFF
"""Exponents of the default precinct size, 2**15 x 2**15."""

_MAX_SEGMENTS = 500_000


def check_jpeg_2000(frame: bytes) -> None:
    """Refuse a codestream that lacks tiles, or whose decoding would take far too much memory.

    Args:
        frame: the codestream, which starts with its first marker.

    Raises:
        ScanRefusedError: tiles or tile-parts are missing, or a limit of this module is exceeded.
        struct.error: the codestream is truncated.
    """
    _, right, bottom, left, top, width, height, tiles_left, tiles_top, components = _SIZE.unpack_from(
        frame, 6
    )
    if not (tiles_left <= left < right and tiles_top <= top < bottom and width and height):
        raise ScanRefusedError("compressed pixels truncated or corrupt")
    tiles = -(-(right - tiles_left) // width) * -(-(bottom - tiles_top) // height)
    if (right - left) * (bottom - top) * components > MAX_VALUES or tiles > MAX_TILES:
        raise ScanRefusedError("image too large")
    parts: dict[int, int] = {}
    declared: dict[int, int] = {}
    for marker, body in _segments(frame):
        if marker == _START_OF_PART:
            _, tile, _, _, count = _PART.unpack_from(body)
            parts[tile] = parts.get(tile, 0) + 1
            declared[tile] = max(declared.get(tile, 0), count)
        elif marker in {_CODING, _CODING_OF_COMPONENT}:
            # Both hold the style, five coding bytes and the precincts, but at different offsets.
            style, coding = (body[2], body[7:]) if marker == _CODING else (body[3], body[4:])
            layers = int.from_bytes(body[4:6], "big") if marker == _CODING else 1
            size = min(width, right - left), min(height, bottom - top)
            _check_coding(coding, size, components, layers, has_precincts=bool(style & 1))
    if any(tile not in parts or parts[tile] < declared[tile] for tile in range(tiles)):
        raise ScanRefusedError("pixel data truncated or corrupt")


def _segments(frame: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (marker, its segment from the length field on) of the main header and all tile-part headers."""
    position = end_of_part = 2
    for _ in range(_MAX_SEGMENTS):
        if position + 4 > len(frame):
            return
        marker, length = struct.unpack_from(">HH", frame, position)
        if marker == _END:
            return
        if marker == _START_OF_DATA:
            position = end_of_part
            continue
        body = frame[position + 2 : position + 2 + length]
        if marker == _START_OF_PART:
            (size,) = struct.unpack_from(">I", body, 4)
            # A part of length 0 extends to the end of the codestream.
            end_of_part = position + size if size else len(frame)
            if end_of_part < position + 12:
                raise ScanRefusedError("compressed pixels truncated or corrupt")
        yield marker, body
        position += 2 + length
    raise ScanRefusedError("too many tile-parts")


def _check_coding(
    coding: bytes, size: tuple[int, int], components: int, layers: int, *, has_precincts: bool
) -> None:
    """Refuse a coding style that divides a tile into too many precincts or blocks (A.6.1, B.6 and B.7)."""
    levels, block_width, block_height = coding[0], coding[1] & 15, coding[2] & 15
    if levels > 32 or (has_precincts and len(coding) < 6 + levels):
        raise ScanRefusedError("compressed pixels truncated or corrupt")
    precincts = blocks = 0
    for resolution in range(levels + 1):
        precinct = coding[5 + resolution] if has_precincts else _DEFAULT_PRECINCTS
        down, across = (-(-length // (1 << (levels - resolution))) for length in size[::-1])
        precincts += _pieces(across, precinct & 15) * _pieces(down, precinct >> 4)
        # Each higher resolution has three subbands of half its size; blocks do not cross precincts.
        bands, half = (3, 1) if resolution else (1, 0)
        blocks_across = _pieces(across >> half, min(block_width + 2, max((precinct & 15) - half, 0)))
        blocks_down = _pieces(down >> half, min(block_height + 2, max((precinct >> 4) - half, 0)))
        blocks += bands * blocks_across * blocks_down
    if (precincts + blocks) * components > MAX_BLOCKS:
        raise ScanRefusedError("too many code blocks")
    if precincts * components * layers > MAX_PACKETS:
        raise ScanRefusedError("too many packets")


def _pieces(length: int, power: int) -> int:
    """Return the largest number of grid cells of size 2**power that a length may touch, at any offset."""
    return (length >> power) + 2
