"""Holding freed memory saves the kernel's work, changes no result, and ends with the block."""

from __future__ import annotations

import ctypes
import resource
from pathlib import Path

import pytest
import torch

from models.allocator import _glibc, held_memory

BIG = 16 * 2**20


def faults(rounds: int = 20) -> int:
    """Return the pages that the kernel had to hand out while a large tensor came and went."""
    torch.ones(BIG // 4)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        torch.ones(BIG // 4)
        torch.ones(3 * BIG // 4)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(_glibc() is None, reason="the C library is not glibc")
def test_inside_the_block_memory_is_used_again() -> None:
    plain = faults()
    with held_memory():
        # What other tests left in the heap may lie in the way at first.
        held = min(faults() for _ in range(4))
    assert held < plain / 20, (held, plain)
    assert faults() > plain / 2


@pytest.mark.skipif(_glibc() is None, reason="the C library is not glibc")
def test_the_memory_is_given_back_at_the_end() -> None:
    def resident() -> int:
        with Path("/proc/self/statm").open() as stream:
            return int(stream.read().split()[1]) * resource.getpagesize()

    with held_memory():
        for _ in range(2):
            blocks = [torch.ones(BIG // 4) for _ in range(16)]
            del blocks
        inside = resident()
    assert inside - resident() > 8 * BIG


def test_a_glibc_that_refuses_so_large_a_threshold_gets_the_largest_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    largest, thresholds = 32 * 2**20, list[int]()

    class Older:
        def mallopt(self, parameter: int, value: int) -> int:
            if parameter == -3 and value <= largest:
                thresholds.append(value)
            return int(parameter != -3 or value <= largest)

        def malloc_trim(self, _pad: int) -> int:
            return 1

    monkeypatch.setattr("models.allocator._glibc", Older)
    with held_memory():
        assert thresholds == [largest]


def test_it_does_nothing_without_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    class Other:
        def __getattr__(self, name: str) -> object:
            raise AttributeError(name)

    _glibc.cache_clear()
    monkeypatch.setattr(ctypes, "CDLL", lambda _name: Other())
    try:
        with held_memory():
            assert torch.ones(3).sum() == 3
    finally:
        _glibc.cache_clear()
