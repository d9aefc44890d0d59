"""Damage to NIfTI files: header fields, extensions, and the gzip stream around them."""

from __future__ import annotations

import functools
import gzip
import random
import struct

from tests.pipeline.sources.fuzzing.mutations import LENGTHS, Mutation

_FIELDS = {
    1: {"sizeof": (0, "i"), "dim": (40, "h"), "type": (70, "h"), "bits": (72, "h"), "pixdim": (76, "f"),
        "offset": (108, "f"), "slope": (112, "f"), "inter": (116, "f"), "qform": (252, "h"),
        "quatern": (256, "f"), "srow": (280, "f"), "magic": (344, "i")},
    2: {"sizeof": (0, "i"), "dim": (16, "q"), "type": (12, "h"), "bits": (14, "h"), "pixdim": (104, "d"),
        "offset": (168, "q"), "slope": (176, "d"), "inter": (184, "d"), "qform": (344, "i"),
        "quatern": (352, "d"), "srow": (400, "d"), "magic": (4, "i")},
}  # fmt: skip
_SEVERAL = {"dim": 8, "pixdim": 8, "quatern": 6, "srow": 12}
_TYPES = (0, 1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 768, 1024, 1280, 1536, 1792, 2048, 2304, 9999, -1)
_REALS = (0.0, -1.0, 1e-45, 1e38, -1e38, float("nan"), float("inf"), -float("inf"), 352.5, 1e9)


def unpacked(data: bytes) -> bytes:
    return gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data


def _packed_like(data: bytes, changed: bytes) -> bytes:
    return gzip.compress(changed, 1, mtime=0) if data[:2] == b"\x1f\x8b" else changed


def _put(data: bytes, name: str, index: int, value: float) -> bytes:
    big = data[:4] in {b"\0\0\1\x5c", b"\0\0\2\x1c"}
    version = 2 if 540 in (int.from_bytes(data[:4], "little"), int.from_bytes(data[:4], "big")) else 1
    start, kind = _FIELDS[version][name]
    size = struct.calcsize(kind)
    if kind in "fd":
        packed = struct.pack(f"{'>' if big else '<'}{kind}", value)
    else:
        packed = (int(value) % (1 << (8 * size))).to_bytes(size, "big" if big else "little")
    at = start + index * size
    return data[:at] + packed + data[at + size :]


def edit_dimensions(rng: random.Random, data: bytes) -> bytes:
    plain = unpacked(data)
    for _ in range(rng.choice((1, 1, 3))):
        value = rng.choice((0, 1, 2, 3, 4, 5, 7, 8, 64, 10_000, 32767, -1, -32768, *LENGTHS, 2**62))
        plain = _put(plain, "dim", rng.randrange(8), value)
    return _packed_like(data, plain)


def edit_type(rng: random.Random, data: bytes) -> bytes:
    plain = _put(unpacked(data), "type", 0, rng.choice(_TYPES))
    if rng.random() < 0.5:
        plain = _put(plain, "bits", 0, rng.choice((0, 1, 8, 16, 24, 32, 64, 128, 256, -1)))
    return _packed_like(data, plain)


def edit_offset(rng: random.Random, data: bytes) -> bytes:
    places = (*_REALS, 0, 4, 348, 353, 540, 2**31, -352, len(data) - 1)
    value = rng.choice([number for number in places if abs(number) < 2**62])
    return _packed_like(data, _put(unpacked(data), "offset", 0, value))


def edit_scaling(rng: random.Random, data: bytes) -> bytes:
    plain = _put(unpacked(data), "slope", 0, rng.choice(_REALS))
    return _packed_like(data, _put(plain, "inter", 0, rng.choice(_REALS)))


def edit_orientation(rng: random.Random, data: bytes) -> bytes:
    plain = unpacked(data)
    for _ in range(rng.choice((1, 4, 12))):
        name = rng.choice(("pixdim", "quatern", "srow"))
        plain = _put(plain, name, rng.randrange(_SEVERAL[name]), rng.choice(_REALS))
    return _packed_like(data, _put(plain, "qform", rng.randrange(2), rng.choice((0, 1, 4, -1, 99))))


def edit_magic(rng: random.Random, data: bytes) -> bytes:
    name = rng.choice(("sizeof", "magic"))
    return _packed_like(data, _put(unpacked(data), name, 0, rng.choice((0, 348, 540, *LENGTHS, 1543569408))))


def add_extension(rng: random.Random, data: bytes) -> bytes:
    plain = unpacked(data)
    start = 544 if len(plain) > 4 and 540 in plain[:4] else 348
    size = rng.choice((0, 8, 15, 16, 1024, *LENGTHS))
    extension = b"\1\0\0\0" + struct.pack("<II", size, 6) + b"<xml/>"
    return _packed_like(data, plain[:start] + extension * rng.choice((1, 500)) + plain[start + 4 :])


@functools.cache
def _zeros(megabytes: int) -> bytes:
    # Members of a gzip file follow one another: what unpacks to much is made without packing as much.
    member = gzip.compress(bytes(2**23), 9, mtime=0)
    return member * (megabytes // 8)


def gzip_bomb(rng: random.Random, data: bytes) -> bytes:
    """Return a header that asks for little, for a large image or for more than is ever unpacked."""
    plain = unpacked(data)
    shape = rng.choice(((), (9_900, 1, 9_900), (30_000, 30_000, 1), (512, 512, 400), (640, 640, 640)))
    for index, value in enumerate((3, *shape) if shape else ()):
        plain = _put(plain, "dim", index, value)
    return gzip.compress(plain, 1, mtime=0) + _zeros(rng.choice((256, 600, 1200)))


def damage_stream(rng: random.Random, data: bytes) -> bytes:
    packed = gzip.compress(unpacked(data), 1, mtime=0)
    at = rng.randrange(len(packed))
    how = rng.randrange(4)
    if how == 0:
        return packed[:at]
    if how == 1:
        return packed[:-8] + rng.randbytes(8)
    if how == 2:
        return packed + rng.randbytes(32)
    return packed[:at] + rng.randbytes(2) + packed[at + 2 :]


def pack_twice(rng: random.Random, data: bytes) -> bytes:
    return gzip.compress(gzip.compress(unpacked(data), 1, mtime=0), rng.choice((0, 9)), mtime=0)


NIFTI: tuple[Mutation, ...] = (
    edit_dimensions, edit_type, edit_offset, edit_scaling, edit_orientation, edit_magic, add_extension,
    damage_stream, pack_twice,
)  # fmt: skip
NIFTI_BOMBS: tuple[Mutation, ...] = (gzip_bomb,)
