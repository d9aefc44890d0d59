"""Whether a JPEG or JPEG-LS codestream has all its scan data (ISO/IEC 10918-1 and 14495-1).

The decoders make up what is missing, without a word: the lower part of a picture whose scan was cut before
its end marker is a flat grey. Whether they did can be seen from outside. Bytes put in where a scan ends are
skipped if the scan is whole, and taken for picture if it is not.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from pipeline.errors import ScanRefusedError

MAX_SCANS = 100
"""Most scans of a codestream; progressive ones have about ten, and each goes over the whole image again."""

MAX_MARKS = 200_000
"""Most segments, and most restart intervals, of a codestream; one a row of blocks is usual."""

_START_OF_IMAGE, _START_OF_SCAN, _END_OF_IMAGE = b"\xff\xd8", 0xDA, 0xD9
_FRAMES = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}
_SEQUENTIAL, _PROGRESSIVE = frozenset({0xC0, 0xC1}), 0xC2
_ARITHMETIC = frozenset({0xC9, 0xCA, 0xCB, 0xCD, 0xCE, 0xCF})
_RESTARTS = range(0xD0, 0xD8)
_ALONE = frozenset({0x01, *_RESTARTS})

_MARKER, _AMONG_DATA = re.compile(rb"\xff[\x01-\xff]"), re.compile(rb"\xff[\x80-\xff]")
"""What begins a marker; among scan data 00 stands after a byte FF in JPEG, less than 80 in JPEG-LS."""

_OTHER = re.compile(rb"[^\xff]")
_MAX_STEPS = 1_000_000

_FOREIGN = bytes(random.Random(1).randrange(1, 0x80) for _ in range(64))
"""Bytes that are no marker, and no picture that anything would make up."""

_NO_CODE = b"\xff\0" * 8
"""As many 1 bits as a decoder reads ahead. No Huffman code is all ones: a block is two of these at least."""


@dataclass(slots=True)
class Scans:
    """What a codestream says of its scans.

    Attributes:
        process: number of the marker of the frame, 0 without one.
        components: numbers of the components of the frame.
        bands: component -> the lowest bit of each of its coefficients that was coded; 255 without any.
        marks: offsets at which scan data end: before a restart marker, the next segment, or at the end.
        num_scans: number of scans.
        end: offset behind the data of the last scan.
    """

    process: int = 0
    components: bytes = b""
    bands: dict[int, list[int]] = field(default_factory=dict)
    marks: list[int] = field(default_factory=list)
    num_scans: int = 0
    end: int = 0

    @property
    def is_plain(self) -> bool:
        """Whether it is one Huffman-coded scan from top to bottom, without restarts."""
        return self.process in _SEQUENTIAL and self.num_scans == 1 and len(self.marks) == 1

    def check(self) -> None:
        """Refuse a codestream that lacks whole scans, or has absurdly many.

        Raises:
            ScanRefusedError: too many scans, a component or a coefficient was not coded to its last bit, or
                the codes are arithmetic: their scans need not be whole.
        """
        if self.num_scans > MAX_SCANS:
            raise ScanRefusedError("too many scans")
        if self.process in _ARITHMETIC:
            raise ScanRefusedError("arithmetic coding not supported")
        wanted = 64 if self.process == _PROGRESSIVE else 1
        for number in self.components:
            if any(self.bands.get(number, [255])[:wanted]):
                raise ScanRefusedError("scans of the image missing")


def scans_of(data: bytes) -> Scans:
    """Return what a codestream, from its first byte on, says of its scans; up to where it makes no sense."""
    found = Scans()
    for marker, place in _segments(data, found):
        length = int.from_bytes(data[place : place + 2], "big")
        body = data[place + 2 : place + length]
        if marker in _FRAMES and len(body) >= 6 and not found.process:
            found.process, found.components = marker, body[6 : 6 + 3 * body[5] : 3]
        if marker == _START_OF_SCAN and body and len(body) >= 4 + 2 * body[0]:
            found.num_scans += 1
            first, last, bits = body[1 + 2 * body[0] :][:3]
            progressive = found.process == _PROGRESSIVE
            for number in body[1 : 1 + 2 * body[0] : 2]:
                band = found.bands.setdefault(number, [255] * 64)
                for coefficient in range(first, min(last, 63) + 1) if progressive else (0,):
                    band[coefficient] = bits & 15 if progressive else 0
    return found


def _segments(data: bytes, found: Scans) -> Iterator[tuple[int, int]]:
    """Yield (marker, offset of its length) of all segments, and note where scan data end."""
    position = 2 if data[:2] == _START_OF_IMAGE else len(data)
    for _ in range(MAX_MARKS):
        # As the decoders do, whatever stands before the next marker is stepped over.
        _, position = _next(_MARKER, data, position)
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
    """Note where the data of a scan end, and return the offset behind them."""
    while len(found.marks) < MAX_MARKS:
        mark, position = _next(_AMONG_DATA, data, position)
        found.marks.append(mark)
        if position >= len(data) or data[position] not in _RESTARTS:
            break
    found.end = found.marks[-1]
    return found.end


def _next(kind: re.Pattern[bytes], data: bytes, position: int) -> tuple[int, int]:
    """Return where the next marker begins and where its number stands; without one, the end of the data."""
    for _ in range(_MAX_STEPS):
        match = kind.search(data, position)
        # Any number of bytes FF may stand before a marker's own.
        number = _OTHER.search(data, match.end() - 1) if match else None
        if match is None or number is None:
            return len(data), len(data)
        position = number.start()
        if kind.match(b"\xff" + data[position : position + 1]):
            return match.start(), position
    raise ScanRefusedError("compressed pixels truncated or corrupt")


def without_end(data: bytes, scans: Scans) -> bytes:
    """Return a codestream of one plain scan with no end marker, but with bits to read ahead.

    A decoder that waits for more data, as Pillow's does, has all rows only if the scan has all blocks.
    """
    return data[: scans.end] + _NO_CODE


def with_foreign_bytes(data: bytes, scans: Scans) -> bytes:
    """Return a codestream that decodes to the same picture if, and only if, all scan data are there."""
    pieces = []
    position = restarts = 0
    for mark in scans.marks:
        pieces += [data[position:mark], _FOREIGN]
        position = mark
        if len(following := data[mark : mark + 16].lstrip(b"\xff")) and following[0] in _RESTARTS:
            restarts += 1
        elif restarts:
            # Where whole intervals are lost, a decoder looks for the next one before it reads on.
            pieces += [bytes((0xFF, _RESTARTS[restarts % 8])), _FOREIGN]
            restarts = 0
    return b"".join([*pieces, data[position:]])
