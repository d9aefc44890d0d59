"""Checks that a JPEG or JPEG-LS codestream has all its scan data (ISO/IEC 10918-1 and 14495-1).

Decoders silently fill in missing scan data, so the lower part of a truncated image is flat grey. To detect
this, bytes are inserted at the end of each scan. A decoder skips them after a complete scan, and decodes
them as pixels after an incomplete one.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.errors import ScanRefusedError

MAX_SCANS = 100
"""Largest number of scans; progressive images have about ten, and each decodes the whole image again."""

MAX_MARKS = 200_000
"""Largest number of segments, and of restart intervals, of which one per row of blocks is usual."""

_START_OF_IMAGE, _START_OF_SCAN, _END_OF_IMAGE = b"\xff\xd8", 0xDA, 0xD9
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL, _PROGRESSIVE = frozenset({0xC0, 0xC1}), 0xC2
_ARITHMETIC = frozenset({0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_RESTARTS = range(0xD0, 0xD8)
_ALONE = frozenset({0x01, *_RESTARTS})

_MARKER, _MARKER_IN_SCAN = re.compile(rb"\xff[\x01-\xff]"), re.compile(rb"\xff[\x80-\xff]")
"""Starts of markers. In scan data, a byte FF is followed by 00 in JPEG and by less than 80 in JPEG-LS."""

_NOT_FF = re.compile(rb"[^\xff]")
_MAX_STEPS = 1_000_000

_FOREIGN = bytes(random.Random(1).randrange(1, 0x80) for _ in range(64))
"""Random bytes without a marker; no decoder fills in pixels that equal theirs."""

_ONES = b"\xff\0" * 8
"""The 1 bits that a decoder reads ahead. No Huffman code is all ones, so they encode no block."""


@dataclass(slots=True)
class Scans:
    """The scans of a codestream.

    Attributes:
        process: number of the frame's marker; 0 without a frame.
        components: identifiers of the frame's components.
        bands: component -> lowest coded bit of each of its 64 coefficients; 255 for uncoded coefficients.
        marks: offsets of the ends of scan data, at a restart marker, the next segment or the end of the file.
        num_scans: number of scans.
        end: offset of the end of the last scan's data.
    """

    process: int = 0
    components: bytes = b""
    bands: dict[int, list[int]] = field(default_factory=dict)
    marks: list[int] = field(default_factory=list)
    num_scans: int = 0
    end: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether there is one Huffman-coded sequential scan without restart markers."""
        return self.process in _SEQUENTIAL and self.num_scans == 1 and len(self.marks) == 1

    def check(self) -> None:
        """Refuse a codestream that lacks scans or has too many.

        Raises:
            ScanRefusedError: there are too many scans, a component or coefficient lacks its last bit, or the
                coding is arithmetic, so that truncated scans cannot be detected.
        """
        if self.num_scans > MAX_SCANS:
            raise ScanRefusedError("too many scans")
        if self.process in _ARITHMETIC:
            raise ScanRefusedError("arithmetic coding not supported")
        coefficients = 64 if self.process == _PROGRESSIVE else 1
        for component in self.components:
            if any(self.bands.get(component, [255])[:coefficients]):
                raise ScanRefusedError("scans of the image missing")


def scans_of(data: bytes) -> Scans:
    """Return the scans of a codestream, which starts at the first byte.

    Raises:
        ScanRefusedError: there are too many segments, restart intervals or invalid markers.
    """
    found = Scans()
    for marker, start in _segments(data, found):
        length = int.from_bytes(data[start : start + 2], "big")
        body = data[start + 2 : start + length]
        if marker in _FRAMES and len(body) >= 6 and not found.process:
            found.process, found.components = marker, body[6 : 6 + 3 * body[5] : 3]
        if marker == _START_OF_SCAN and body and len(body) >= 4 + 2 * body[0]:
            found.num_scans += 1
            first, last, bits = body[1 + 2 * body[0] :][:3]
            progressive = found.process == _PROGRESSIVE
            for component in body[1 : 1 + 2 * body[0] : 2]:
                band = found.bands.setdefault(component, [255] * 64)
                for coefficient in range(first, min(last, 63) + 1) if progressive else (0,):
                    band[coefficient] = bits & 15 if progressive else 0
    return found


def _segments(data: bytes, found: Scans) -> Iterator[tuple[int, int]]:
    """Yield (marker, offset of its length field) of all segments, and add the scan ends to `found`."""
    position = 2 if data[:2] == _START_OF_IMAGE else len(data)
    for _ in range(MAX_MARKS):
        # Like the decoders, skip all bytes before the next marker.
        _, position = _next_marker(_MARKER, data, position)
        if position >= len(data) or (marker := data[position]) == _END_OF_IMAGE:
            return
        position += 1
        if marker in _ALONE:
            continue
        yield marker, position
        position += int.from_bytes(data[position : position + 2], "big")
        if marker == _START_OF_SCAN:
            position = _end_of_scan(data, position, found)
        if len(found.marks) >= MAX_MARKS:
            break
    raise ScanRefusedError("too many scans")


def _end_of_scan(data: bytes, position: int, found: Scans) -> int:
    """Add the ends of a scan's data to `found`, and return the offset of the last."""
    while len(found.marks) < MAX_MARKS:
        mark, position = _next_marker(_MARKER_IN_SCAN, data, position)
        found.marks.append(mark)
        if position >= len(data) or data[position] not in _RESTARTS:
            break
    found.end = found.marks[-1]
    return found.end


def _next_marker(pattern: re.Pattern[bytes], data: bytes, position: int) -> tuple[int, int]:
    """Return the offsets of the next marker and of its number; without a marker, the end of the data."""
    for _ in range(_MAX_STEPS):
        match = pattern.search(data, position)
        # Any number of fill bytes FF may precede a marker.
        number = _NOT_FF.search(data, match.end() - 1) if match else None
        if match is None or number is None:
            return len(data), len(data)
        position = number.start()
        if pattern.match(b"\xff" + data[position : position + 1]):
            return match.start(), position
    raise ScanRefusedError("compressed pixels truncated or corrupt")


def without_end(data: bytes, scans: Scans) -> bytes:
    """Return a codestream of one plain scan without its end marker, followed by bits to read ahead.

    Decoders that wait for more data, such as Pillow's, return all rows only if the scan has all blocks.
    """
    return data[: scans.end] + _ONES


def with_foreign_bytes(data: bytes, scans: Scans) -> bytes:
    """Return a codestream that decodes to the same pixels if and only if all scan data are present."""
    pieces = []
    position = restarts = 0
    for mark in scans.marks:
        pieces += [data[position:mark], _FOREIGN]
        position = mark
        if len(following := data[mark : mark + 16].lstrip(b"\xff")) and following[0] in _RESTARTS:
            restarts += 1
        elif restarts:
            # If whole intervals are missing, a decoder searches for the next restart marker.
            pieces += [bytes((0xFF, _RESTARTS[restarts % 8])), _FOREIGN]
            restarts = 0
    return b"".join([*pieces, data[position:]])
