"""DICOM files that are small and ask for as much memory or time as the bounds allow, or for more."""

from __future__ import annotations

import functools
import random
import struct
import zlib

from tests.pipeline.sources.fuzzing.mutations import Mutation
from tests.pipeline.sources.fuzzing.mutations_dicom import agreed, syntax_element


def agree_on_huge_size(rng: random.Random, data: bytes) -> bytes:
    """Give header and codestream the largest size that is decoded."""
    return agreed(data, *rng.choice(((10_000, 10_000), (65_535, 1_525), (1_600, 62_500))))


def deflate_bomb(rng: random.Random, data: bytes) -> bytes:
    """Return a deflated file that unpacks to more than is ever unpacked, or to the largest image."""
    return _deflated(rng.choice((0, 150, 300, 600)))


@functools.cache
def _deflated(megabytes: int) -> bytes:
    if megabytes:
        return _large_file("1.2.840.10008.1.2.1.99", _packed([bytes(2**20)] * megabytes))
    pixels = b"\xe0\x7f\x10\x00OW\0\0" + struct.pack("<I", 2 * 10_000 * 10_000) + b"\1"
    image = [_largest_layout() + pixels, *[bytes(20_000)] * 9_999, bytes(19_999)]
    return _large_file("1.2.840.10008.1.2.1.99", _packed(image))


def rle_bomb(rng: random.Random, data: bytes) -> bytes:
    """Return a run-length encoded file of the largest image, from 2 MB."""
    segment = b"\x81\1" + b"\x81\0" * (10_000 * 10_000 // 128 - 1)
    frame = struct.pack("<16I", 2, 64, 64 + len(segment), *[0] * 13) + segment * 2
    empty, end = b"\xfe\xff\x00\xe0\0\0\0\0", b"\xfe\xff\xdd\xe0\0\0\0\0"
    pixels = b"\xe0\x7f\x10\x00OB\0\0\xff\xff\xff\xff" + empty + empty[:4] + struct.pack("<I", len(frame))
    return _large_file("1.2.840.10008.1.2.5", _largest_layout() + pixels + frame + end)


def _packed(pieces: list[bytes]) -> bytes:
    packer = zlib.compressobj(1, wbits=-15)
    return b"".join(packer.compress(piece) for piece in pieces) + packer.flush()


def _large_file(uid: str, body: bytes) -> bytes:
    return bytes(128) + b"DICM" + syntax_element(uid) + body


def _largest_layout() -> bytes:
    words = {0x02: 1, 0x10: 10_000, 0x11: 10_000, 0x100: 16, 0x101: 16, 0x102: 15, 0x103: 0}
    grey = b"\x28\x00\x04\x00CS" + struct.pack("<H", 12) + b"MONOCHROME2 "
    elements = {
        number: b"\x28\x00" + struct.pack("<H", number) + b"US" + struct.pack("<HH", 2, word)
        for number, word in words.items()
    }
    return b"".join(element for _, element in sorted({**elements, 4: grey}.items()))


def element_bomb(rng: random.Random, data: bytes) -> bytes:
    """Return a file of millions of empty items or elements: each becomes an object in memory."""
    empty = b"\xfe\xff\x00\xe0\0\0\0\0" * 3_000_000
    size = rng.choice((b"\xff\xff\xff\xff", struct.pack("<I", len(empty))))
    tag = rng.choice((b"\x28\x00\x00\x30", b"\x00\x52\x30\x92", b"\x08\x00\x10\x11"))
    body = rng.choice((tag + b"SQ\0\0" + size + empty, b"\x09\x00\x00\x10LO\0\0" * 3_000_000))
    return _large_file("1.2.840.10008.1.2.1", body)


DICOM_BOMBS: tuple[Mutation, ...] = (
    agree_on_huge_size,
    agree_on_huge_size,
    deflate_bomb,
    rle_bomb,
    element_bomb,
)
