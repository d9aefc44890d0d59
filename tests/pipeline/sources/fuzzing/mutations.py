"""Damage to the bytes of a file that knows nothing of its format, seeded and repeatable."""

from __future__ import annotations

import random
from collections.abc import Callable

Mutation = Callable[[random.Random, bytes], bytes]
"""Takes a source of chance and a file, and returns the damaged file; the name tells the damage."""

LENGTHS = (0, 1, 7, 0x7F, 0xFF, 0x7FFF, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF)
"""Values at which length fields and counters go wrong."""


def place(rng: random.Random, data: bytes) -> int:
    """Return an offset; the first kilobytes, where headers are, come more often."""
    last = max(0, len(data) - 1)
    return rng.randint(0, min(last, rng.choice((64, 512, 2048, last))))


def flip_bits(rng: random.Random, data: bytes) -> bytes:
    damaged = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        damaged[place(rng, data)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


def truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: place(rng, data)]


def lose_the_end(rng: random.Random, data: bytes) -> bytes:
    return data[: len(data) - rng.randint(1, min(64, len(data)))]


def insert_bytes(rng: random.Random, data: bytes) -> bytes:
    at = place(rng, data)
    return data[:at] + rng.randbytes(rng.choice((1, 2, 3, 8, 200))) + data[at:]


def delete_bytes(rng: random.Random, data: bytes) -> bytes:
    at = place(rng, data)
    return data[:at] + data[at + rng.choice((1, 2, 3, 8, 200)) :]


def repeat_bytes(rng: random.Random, data: bytes) -> bytes:
    at = place(rng, data)
    return data[:at] + data[at : at + rng.choice((2, 8, 64, 512))] * rng.choice((2, 16, 500)) + data[at:]


def swap_ranges(rng: random.Random, data: bytes) -> bytes:
    first, second = sorted((place(rng, data), place(rng, data)))
    length = min(rng.choice((2, 4, 8, 64)), second - first)
    damaged = bytearray(data)
    damaged[first : first + length] = data[second : second + length]
    damaged[second : second + length] = data[first : first + length]
    return bytes(damaged)


def overwrite_number(rng: random.Random, data: bytes) -> bytes:
    at, width = place(rng, data), rng.choice((2, 4))
    number = rng.choice(LENGTHS) % (1 << (8 * width))
    return data[:at] + number.to_bytes(width, rng.choice(("little", "big"))) + data[at + width :]


def fill_range(rng: random.Random, data: bytes) -> bytes:
    at, length = place(rng, data), rng.choice((4, 32, 256, 4096))
    kept = data[at : at + length]
    filling = rng.randbytes(len(kept)) if rng.random() < 0.5 else rng.choice((b"\0", b"\xff")) * len(kept)
    return data[:at] + filling + data[at + length :]


ANY_FORMAT: tuple[Mutation, ...] = (
    flip_bits, truncate, lose_the_end, insert_bytes, delete_bytes, repeat_bytes, swap_ranges,
    overwrite_number, fill_range,
)  # fmt: skip
