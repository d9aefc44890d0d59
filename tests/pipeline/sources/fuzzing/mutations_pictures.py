"""Damage to PNG, JPEG and TIFF files: chunks with right checksums, frame headers, directories, bombs."""

from __future__ import annotations

import functools
import random
import struct
import zlib

from tests.pipeline.sources.fuzzing.mutations import LENGTHS, Mutation

Chunks = list[tuple[bytes, bytes]]
_SIZES = (0, 1, 2, 13, 9_999, 10_000, 10_001, 65_500, 100_000, 2**31 - 1, 2**31, 2**32 - 1)
_START = b"\x89PNG\r\n\x1a\n"


def _chunks(data: bytes) -> Chunks:
    found, at = [], 8
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + length]))
        at += 12 + length
    return found


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(chunks: Chunks) -> bytes:
    return _START + b"".join(_chunk(kind, body) for kind, body in chunks)


def png_header(rng: random.Random, data: bytes) -> bytes:
    (kind, body), *others = _chunks(data)
    fields = list(struct.unpack(">IIBBBBB", body))
    for _ in range(rng.choice((1, 1, 2))):
        place = rng.randrange(7)
        fields[place] = rng.choice(_SIZES) if place < 2 else rng.choice((0, 1, 2, 3, 4, 6, 8, 16, 255))
    return _png([(kind, struct.pack(">IIBBBBB", *fields)), *others])


def png_huge(rng: random.Random, data: bytes) -> bytes:
    """Return a header of 100,000 x 100,000 or of the largest size that is decoded, over few data."""
    (kind, body), *others = _chunks(data)
    side = rng.choice((100_000, 10_000, 10_000))
    return _png([(kind, struct.pack(">II", side, side) + body[8:]), *others])


def png_order(rng: random.Random, data: bytes) -> bytes:
    chunks = _chunks(data)
    place, other = rng.randrange(len(chunks)), rng.randrange(len(chunks))
    how = rng.randrange(3)
    if how == 0:
        del chunks[place]
    elif how == 1:
        chunks.insert(other, chunks[place])
    else:
        chunks[place], chunks[other] = chunks[other], chunks[place]
    return _png(chunks)


def png_length(rng: random.Random, data: bytes) -> bytes:
    chunks = _chunks(data)
    at = 8 + sum(12 + len(body) for _, body in chunks[: rng.randrange(len(chunks))])
    return data[:at] + struct.pack(">I", rng.choice(LENGTHS)) + data[at + 4 :]


def png_checksum(rng: random.Random, data: bytes) -> bytes:
    chunks = _chunks(data)
    at = 8 + sum(12 + len(body) for _, body in chunks[: rng.randint(1, len(chunks))]) - 4
    return data[:at] + rng.randbytes(4) + data[at + 4 :]


def png_body(rng: random.Random, data: bytes) -> bytes:
    """Change the content of one chunk and give it a right checksum."""
    chunks = _chunks(data)
    place = rng.randrange(len(chunks))
    kind, body = chunks[place]
    changed = bytearray(body or b"\0")
    for _ in range(rng.choice((1, 4, 32))):
        changed[rng.randrange(len(changed))] = rng.randrange(256)
    chunks[place] = (kind, bytes(changed[: rng.choice((len(changed), len(changed) // 2))]))
    return _png(chunks)


@functools.cache
def _packed_zeros(megabytes: int) -> bytes:
    return zlib.compress(bytes(megabytes * 2**20), 9)


def png_bomb(rng: random.Random, data: bytes) -> bytes:
    first, *others = _chunks(data)
    packed = _packed_zeros(64)
    kind, body = rng.choice(
        (
            (b"zTXt", b"Comment\0\0" + packed),
            (b"iCCP", b"profile\0\0" + packed),
            (b"iTXt", b"Comment\0\1\0\0\0" + packed),
            (b"eXIf", b"MM\0*\0\0\0\x08" + b"\xff" * 4096),
            (b"tRNS", b"\xff" * 70_000),
            (b"acTL", struct.pack(">II", rng.choice((0, 1, 2, 2**31)), 0)),
            (b"pHYs", b"\0" * rng.randrange(12)),
            (b"gAMA", b"\0" * rng.randrange(6)),
            (b"cHRM", b"\0" * rng.randrange(40)),
        )
    )
    return _png([first, *[(kind, body)] * rng.choice((1, 1, 20)), *others])


def png_valid_bomb(rng: random.Random, data: bytes) -> bytes:
    """Return a whole picture of the largest size, black, from few bytes."""
    depth, colour, width = rng.choice(((8, 0, 1), (16, 0, 2), (8, 2, 3), (8, 6, 4), (16, 2, 6), (8, 4, 2)))
    side = 10_000
    packer = zlib.compressobj(1)
    row = bytes(1 + side * width)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    return _png(
        [
            (b"IHDR", struct.pack(">IIBBBBB", side, side, depth, colour, 0, 0, 0)),
            (b"IDAT", body),
            (b"IEND", b""),
        ]
    )


def _markers(data: bytes) -> list[tuple[int, int]]:
    """Return (marker, offset of its length field) up to the first scan."""
    found, at = [], 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        found.append((data[at + 1], at + 2))
        if data[at + 1] == 0xDA:
            break
        at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
    return found


def jpeg_frame(rng: random.Random, data: bytes) -> bytes:
    places = [at for marker, at in _markers(data) if marker in range(0xC0, 0xC3)]
    damaged = bytearray(data)
    for at in places:
        how = rng.randrange(4)
        if how == 0:
            struct.pack_into(
                ">HH", damaged, at + 3, *(rng.choice((0, 1, 10_000, 10_000, 65_500, 65_535)) for _ in "ab")
            )
        elif how == 1:
            damaged[at - 1] = rng.randrange(0xC0, 0xD0)
        elif how == 2:
            damaged[at + 2] = rng.choice((0, 1, 8, 12, 16, 255))
        else:
            damaged[at + 7 + rng.randrange(min(10, len(damaged) - at - 7))] = rng.randrange(256)
    return bytes(damaged)


def jpeg_huge(rng: random.Random, data: bytes) -> bytes:
    """Return a frame header of the largest size that is decoded, over few data."""
    damaged = bytearray(data)
    for marker, at in _markers(data):
        if marker in range(0xC0, 0xC3):
            struct.pack_into(">HH", damaged, at + 3, 10_000, 10_000)
            damaged[at - 1] = rng.choice((0xC0, 0xC2, marker))
    scans = bytes(damaged)
    return jpeg_scans(rng, scans) if rng.random() < 0.5 else scans


def jpeg_segment(rng: random.Random, data: bytes) -> bytes:
    markers = _markers(data)
    if not markers:
        return data
    _, at = rng.choice(markers)
    length = int.from_bytes(data[at : at + 2], "big")
    how = rng.randrange(4)
    if how == 0:
        return data[:at] + struct.pack(">H", rng.choice((0, 1, 2, 3, 255, 65_535))) + data[at + 2 :]
    if how == 1:
        return data[: at - 2] + data[at + length :]
    if how == 2:
        return data[: at - 2] + data[at - 2 : at + length] * rng.choice((2, 200)) + data[at + length :]
    inside = at + 2 + rng.randrange(max(1, length - 2))
    return data[:inside] + rng.randbytes(1) + data[inside + 1 :]


def jpeg_scans(rng: random.Random, data: bytes) -> bytes:
    """Repeat the scans of a picture, which a decoder of progressive pictures works through one by one."""
    found = data.rfind(b"\xff\xda")
    if found < 0:
        return data
    return data[:found] + data[found:-2] * rng.choice((10, 80, 300)) + b"\xff\xd9"


_ENTRY = struct.Struct("<HHII")
_TIFF_TAGS = (
    254,
    256,
    257,
    258,
    259,
    262,
    273,
    277,
    278,
    279,
    284,
    317,
    320,
    322,
    323,
    324,
    325,
    330,
    338,
    339,
    34665,
)


def _directory(data: bytes) -> tuple[int, int]:
    """Return the offset of the first directory and the number of its entries."""
    if data[:2] != b"II" or len(data) < 8:
        return 0, 0
    (start,) = struct.unpack_from("<I", data, 4)
    if start + 2 > len(data):
        return 0, 0
    (count,) = struct.unpack_from("<H", data, start)
    return start, min(count, (len(data) - start - 6) // 12)


def tiff_entry(rng: random.Random, data: bytes) -> bytes:
    start, count = _directory(data)
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4)) if count > 0 else 0):
        at = start + 2 + 12 * rng.randrange(count)
        tag, kind, number, value = _ENTRY.unpack_from(damaged, at)
        how = rng.randrange(5)
        if how == 0:
            tag = rng.choice(_TIFF_TAGS)
        elif how == 1:
            kind = rng.randrange(20)
        elif how == 2:
            number = rng.choice((0, 2, 70_000, *LENGTHS))
        else:
            value = rng.choice((*range(9), 10_000, 32_773, 32_946, 34_712, 50_000, *LENGTHS))
        _ENTRY.pack_into(damaged, at, tag, kind, number, value)
    return bytes(damaged)


def tiff_size(rng: random.Random, data: bytes) -> bytes:
    """Give width and length (and the strip) another size."""
    start, count = _directory(data)
    damaged = bytearray(data)
    for place in range(max(0, count)):
        tag, _, number, value = _ENTRY.unpack_from(damaged, start + 2 + 12 * place)
        if tag in {256, 257, 278}:
            value = rng.choice((0, 1, 10_000, 10_000, 10_000, 100_000, 2**32 - 1))
            _ENTRY.pack_into(damaged, start + 2 + 12 * place, tag, 4, number, value)
    return bytes(damaged)


def tiff_chain(rng: random.Random, data: bytes) -> bytes:
    """Let the directory point to itself, to the header, to nothing, or to a long chain of directories."""
    start, count = _directory(data)
    at = start + 2 + 12 * max(0, count)
    if not start:
        return data
    how = rng.randrange(5)
    if how < 4:
        target = (start, 0, 8, rng.choice(LENGTHS))[how]
        return data[:at] + struct.pack("<I", target) + data[at + 4 :]
    begin = len(data)
    links = 20_000
    chain = b"".join(struct.pack("<HI", 0, begin + 6 * (number + 1)) for number in range(links))
    return data[:at] + struct.pack("<I", begin) + data[at + 4 :] + chain + struct.pack("<HI", 0, start)


PNG: tuple[Mutation, ...] = (png_header, png_order, png_length, png_checksum, png_body, png_bomb)
JPEG: tuple[Mutation, ...] = (jpeg_frame, jpeg_segment, jpeg_scans)
TIFF: tuple[Mutation, ...] = (tiff_entry, tiff_entry, tiff_size, tiff_chain)
PNG_BOMBS: tuple[Mutation, ...] = (png_huge, png_valid_bomb)
JPEG_BOMBS: tuple[Mutation, ...] = (jpeg_huge,)
