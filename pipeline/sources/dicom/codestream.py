"""Compressed frames of a DICOM file (PS3.5 A.4): taken out of their fragments, checked before decoding."""

from __future__ import annotations

import io
import struct
from collections.abc import Iterator, Sequence
from itertools import islice

from pipeline.errors import ScanRefusedError
from pipeline.sources.dicom.header import Header
from pipeline.sources.dicom.layout import Layout
from pipeline.sources.images.jpeg_2000 import check_jpeg_2000

MAX_FRAGMENTS = 200_000
"""Most fragments of one file that are looked at."""

_ITEM, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = frozenset({0xC0, 0xC1})
_START_OF_SCAN = 0xDA
_CODESTREAM = b"\xff\x4f\xff\x51"
_END_OF_IMAGE = b"\xff\xd9"
_TRAILING = 1024


def encoded_frames(header: Header, layout: Layout, indices: Sequence[int]) -> Iterator[bytes]:
    """Yield the codestreams of the chosen frames, one at a time.

    Raises:
        ScanRefusedError: too many fragments, a truncated one, fewer frames than chosen, or an offset table
            of more frames than the header has.
    """
    from pydicom.encaps import generate_frames, get_frame

    _count_fragments(header)
    # The first item holds four bytes a frame, or none (PS3.5 A.4).
    (table,) = struct.unpack_from("<I", header.pixels, header.start + 4)
    if table // 4 > layout.frames:
        raise ScanRefusedError("more pixel data than the header says")
    buffer = io.BytesIO(header.pixels)
    buffer.seek(header.start)
    tables = header.values.get("ExtendedOffsetTable"), header.values.get("ExtendedOffsetTableLengths")
    offsets = (tables[0], tables[1]) if tables[0] and tables[1] else None
    if len(indices) == 1:
        yield get_frame(buffer, indices[0], number_of_frames=layout.frames, extended_offsets=offsets)
        return
    frames = generate_frames(buffer, number_of_frames=layout.frames, extended_offsets=offsets)
    found = 0
    for frame in islice(frames, layout.frames):
        found += 1
        yield frame
    if found < layout.frames:
        raise ScanRefusedError("frames missing")


def alone(frame: bytes) -> bytes:
    """Return encapsulated pixel data of this frame alone: an empty offset table and one fragment."""
    return b"".join((_ITEM, bytes(4), _ITEM, struct.pack("<I", len(frame)), frame))


def check_uncompressed(header: Header) -> None:
    """Refuse encapsulated pixel data under a transfer syntax of uncompressed ones: they would be noise.

    Raises:
        ScanRefusedError: the pixel data are in items, or made of nothing but items.
    """
    if header.in_items or _is_chain_of_items(header):
        raise ScanRefusedError("compressed pixels under an uncompressed transfer syntax")


def _is_chain_of_items(header: Header) -> bool:
    """Whether pixel data of a length of their own are items from end to end, which no picture is."""
    data, position, end = header.pixels, header.start, header.start + header.length
    for _ in range(MAX_FRAGMENTS):
        tag = data[position : position + 4]
        if position + 8 > end or tag not in {_ITEM, _SEQUENCE_END}:
            break
        position += 8 + int.from_bytes(data[position + 4 : position + 8], "little")
        if tag == _SEQUENCE_END:
            break
    return position > header.start and 0 <= end - position <= 1


def _count_fragments(header: Header) -> None:
    data, position, end = header.pixels, header.start, header.start + header.length
    if data[position : position + 4] != _ITEM:
        raise ScanRefusedError("compressed pixels not in fragments")
    for _ in range(MAX_FRAGMENTS):
        if position > end:
            raise ScanRefusedError("pixel data truncated or corrupt")
        if position + 8 > end or data[position : position + 4] != _ITEM:
            return
        position += 8 + int.from_bytes(data[position + 4 : position + 8], "little")
    raise ScanRefusedError("too many fragments")


def check_codestream(frame: bytes, layout: Layout) -> None:
    """Refuse a JPEG, JPEG-LS or JPEG 2000 codestream that is truncated, or not of the header's size.

    A decoder allocates what the codestream says, whatever its header was checked for; and that of JPEG and
    JPEG-LS makes up what is missing at the end, without a word.

    Raises:
        ScanRefusedError: truncated, another size, beyond the bounds, or no codestream at all.
    """
    jpeg_2000 = is_jpeg_2000(frame)
    try:
        rows, columns, components, bits = _jpeg_2000(frame) if jpeg_2000 else _jpeg(frame)
        if jpeg_2000 and (rows, columns) == (layout.rows, layout.columns):
            check_jpeg_2000(frame)
    except (struct.error, IndexError) as error:
        raise ScanRefusedError("compressed pixels truncated or corrupt") from error
    if (rows, columns) != (layout.rows, layout.columns):
        raise ScanRefusedError("compressed image of another size than the header says")
    if not jpeg_2000 and frame.rfind(_END_OF_IMAGE, max(0, len(frame) - _TRAILING)) < 0:
        raise ScanRefusedError("pixel data truncated or corrupt")
    if components != layout.samples:
        raise ScanRefusedError("compressed image of other samples than the header says")
    # The decoders of JPEG-LS and JPEG 2000 would be asked for bytes, and keep the lower half of each value.
    if bits > layout.allocated:
        raise ScanRefusedError("compressed image of more bits than the header says")


def bare(frame: bytes) -> bytes:
    """Return a JPEG 2000 codestream without the file format around it, which DICOM does not allow.

    The boxes are not walked: one of length 0 would keep pydicom on its place for ever.
    """
    return frame[frame.index(_CODESTREAM) :] if frame[4:8] == b"jP  " else frame


def is_jpeg_2000(frame: bytes) -> bool:
    """Tell whether a codestream is JPEG 2000, with or without the file format around it."""
    return frame[:4] == _CODESTREAM or frame[4:8] == b"jP  "


def _jpeg_2000(frame: bytes) -> tuple[int, int, int, int]:
    """Return (rows, columns, components, bits of the deepest) from the SIZ marker (ISO/IEC 15444-1 A.5.1)."""
    start = frame.index(_CODESTREAM, 0, 4096) if frame[4:8] == b"jP  " else 0
    right, bottom, left, top = struct.unpack_from(">4I", frame, start + 8)
    (components,) = struct.unpack_from(">H", frame, start + 40)
    bits = max((depth & 0x7F) + 1 for depth in frame[start + 42 : start + 42 + 3 * components : 3] or b"\0")
    return bottom - top, right - left, components, bits


def _segments(frame: bytes) -> Iterator[tuple[int, int]]:
    """Yield (marker, offset of its segment) of a JPEG codestream up to the first scan."""
    if frame[:2] != b"\xff\xd8":
        raise IndexError
    position = 2
    while True:
        while frame[position] == 0xFF:
            position += 1
        marker = frame[position]
        yield marker, position + 1
        if marker == _START_OF_SCAN or frame[position - 1] != 0xFF:
            return
        position += 1 + int.from_bytes(frame[position + 1 : position + 3], "big")


def _jpeg(frame: bytes) -> tuple[int, int, int, int]:
    """Return (rows, columns, components, bits) from the frame header (ISO/IEC 10918-1 B.2.2)."""
    for marker, offset in _segments(frame):
        if marker in _FRAME_MARKERS:
            bits, rows, columns, components = struct.unpack_from(">BHHB", frame, offset + 2)
            return rows, columns, components, bits
    raise IndexError


def with_plain_scan(frame: bytes) -> bytes:
    """Return a sequential JPEG codestream with the spectral selection that its process prescribes.

    Some encoders of 12-bit images write 0 where a sequential scan must say 63 (ISO/IEC 10918-1, table B.3);
    the decoder refuses that, although the coefficients are all there.
    """
    sequential = False
    for marker, offset in _segments(frame):
        sequential = sequential or marker in _SEQUENTIAL
        if marker == _START_OF_SCAN and sequential:
            place = offset + 3 + 2 * frame[offset + 2]
            if frame[place : place + 2] != b"\0\x3f":
                return frame[:place] + b"\0\x3f\0" + frame[place + 3 :]
    return frame
