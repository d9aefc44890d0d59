"""Extracts compressed frames from their fragments (PS3.5 A.4) and checks them before decoding."""

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
"""Largest number of fragments of one file."""

_ITEM, _SEQUENCE_END = b"\xfe\xff\x00\xe0", b"\xfe\xff\xdd\xe0"
_FRAME_MARKERS = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL = frozenset({0xC0, 0xC1})
_START_OF_SCAN = 0xDA
_JPEG_2000_START = b"\xff\x4f\xff\x51"
_END_OF_IMAGE = b"\xff\xd9"
_MAX_TRAILING_BYTES = 1024


def encoded_frames(header: Header, layout: Layout, indices: Sequence[int]) -> Iterator[bytes]:
    """Yield the codestreams of the chosen frames, one at a time.

    Raises:
        ScanRefusedError: there are too many fragments, one is truncated, a frame is missing, or the offset
            table lists more frames than the header.
    """
    from pydicom.encaps import generate_frames, get_frame

    _count_fragments(header)
    # The basic offset table holds four bytes per frame, or none (PS3.5 A.4).
    (table_bytes,) = struct.unpack_from("<I", header.pixels, header.start + 4)
    if table_bytes // 4 > layout.frames:
        raise ScanRefusedError("more pixel data than the header says")
    buffer = io.BytesIO(header.pixels)
    buffer.seek(header.start)
    tables = header.values.get("ExtendedOffsetTable"), header.values.get("ExtendedOffsetTableLengths")
    offsets = (tables[0], tables[1]) if tables[0] and tables[1] else None
    if len(indices) == 1:
        yield get_frame(buffer, indices[0], number_of_frames=layout.frames, extended_offsets=offsets)
        return
    frames = generate_frames(buffer, number_of_frames=layout.frames, extended_offsets=offsets)
    count = 0
    for frame in islice(frames, layout.frames):
        count += 1
        yield frame
    if count < layout.frames:
        raise ScanRefusedError("frames missing")


def encapsulated(frame: bytes) -> bytes:
    """Return encapsulated pixel data with one frame: an empty offset table and one fragment."""
    return b"".join((_ITEM, bytes(4), _ITEM, struct.pack("<I", len(frame)), frame))


def check_uncompressed(header: Header) -> None:
    """Refuse encapsulated pixel data under an uncompressed transfer syntax: they would be read as noise.

    Raises:
        ScanRefusedError: the pixel data are encapsulated, or consist of items only.
    """
    if header.in_items or _is_chain_of_items(header):
        raise ScanRefusedError("compressed pixels under an uncompressed transfer syntax")


def _is_chain_of_items(header: Header) -> bool:
    """Return whether pixel data of defined length consist of items only, as no uncompressed image does."""
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
    """Refuse a JPEG, JPEG-LS or JPEG 2000 codestream that is truncated or contradicts the header.

    Decoders allocate memory for the size in the codestream, not for the checked size in the header. JPEG
    and JPEG-LS decoders silently fill in missing data at the end.

    Raises:
        ScanRefusedError: the codestream is truncated, has another size, number of components or depth than
            the header, exceeds a limit, or is no codestream.
    """
    jpeg_2000 = is_jpeg_2000(frame)
    try:
        rows, columns, components, bits = _jpeg_2000(frame) if jpeg_2000 else _jpeg(frame)
        if jpeg_2000 and (rows, columns) == (layout.rows, layout.columns):
            check_jpeg_2000(frame)
    except (struct.error, IndexError) as error:
        raise ScanRefusedError("compressed pixels truncated or corrupt") from error
    if (rows, columns) != (layout.rows, layout.columns):
        raise ScanRefusedError("compressed image has another size than the header says")
    if not jpeg_2000 and frame.rfind(_END_OF_IMAGE, max(0, len(frame) - _MAX_TRAILING_BYTES)) < 0:
        raise ScanRefusedError("pixel data truncated or corrupt")
    if components != layout.samples:
        raise ScanRefusedError("number of components of the compressed image differs")
    # With fewer bits allocated, JPEG-LS and JPEG 2000 decoders would keep only the low byte of each value.
    if bits > layout.allocated:
        raise ScanRefusedError("compressed image has more bits than the header says")


def without_jp2_boxes(frame: bytes) -> bytes:
    """Return a JPEG 2000 codestream without its file format, which DICOM does not allow.

    The codestream is searched for, because pydicom loops for ever at a box of length 0.
    """
    return frame[frame.index(_JPEG_2000_START) :] if frame[4:8] == b"jP  " else frame


def is_jpeg_2000(frame: bytes) -> bool:
    """Return whether a codestream, without a file format around it, is JPEG 2000."""
    return frame[:4] == _JPEG_2000_START


def _jpeg_2000(frame: bytes) -> tuple[int, int, int, int]:
    """Return (rows, columns, components, largest bit depth) from the SIZ marker (ISO/IEC 15444-1 A.5.1)."""
    right, bottom, left, top = struct.unpack_from(">4I", frame, 8)
    (components,) = struct.unpack_from(">H", frame, 40)
    bits = max((depth & 0x7F) + 1 for depth in frame[42 : 42 + 3 * components : 3] or b"\0")
    return bottom - top, right - left, components, bits


def _segments(frame: bytes) -> Iterator[tuple[int, int]]:
    """Yield (marker, offset of its segment) of a JPEG codestream, up to the first scan."""
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


def with_standard_selection(frame: bytes) -> bytes:
    """Return a sequential JPEG codestream with the spectral selection that the standard requires.

    Some encoders of 12-bit images end the selection at 0 instead of 63 (ISO/IEC 10918-1, table B.3). The
    decoder refuses such a scan, although it has all coefficients.
    """
    sequential = False
    for marker, offset in _segments(frame):
        sequential = sequential or marker in _SEQUENTIAL
        if marker == _START_OF_SCAN and sequential:
            start = offset + 3 + 2 * frame[offset + 2]
            if frame[start : start + 2] != b"\0\x3f":
                return frame[:start] + b"\0\x3f\0" + frame[start + 3 :]
    return frame
