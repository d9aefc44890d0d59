"""Holding freed memory saves the kernel's work, changes no result, and ends with the block."""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys

import pytest
import torch

from models.optim.allocator import _glibc, held_memory

MEASURED = """
import json, resource
from pathlib import Path
import torch
from models.optim.allocator import held_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

def given_back():
    tensor = torch.ones(12 * 2**20)
    during = resident()
    del tensor
    return during - resident()

report = {"plain": given_back()}
with held_memory():
    # Aligned blocks leave holes at first, more or fewer by what lies in the heap.
    for _ in range(60):
        given_back()
    before = resident()
    report["held"] = [given_back() for _ in range(20)]
    report["growth"] = resident() - before
    blocks = [torch.ones(4 * 2**20) for _ in range(16)]
    del blocks
    inside = resident()
report["at the end"] = inside - resident()
print(json.dumps(report))
"""
"""How many bytes the kernel has back once a tensor of 48 MiB is freed, and once the block ends.

A process of its own, since what other tests left in the heap lies in the way. Page faults would say the same
but for huge pages, which come and go with the machine's memory.
"""


@pytest.mark.skipif(_glibc() is None, reason="the C library is not glibc")
def test_inside_the_block_memory_is_used_again_and_given_back_at_its_end() -> None:
    found = subprocess.run([sys.executable, "-c", MEASURED], check=True, capture_output=True, text=True)
    report = json.loads(found.stdout)
    assert report["plain"] > 40 * 2**20
    assert max(report["held"]) < 2**20
    assert report["growth"] < 20 * 48 * 2**20 / 4
    assert report["at the end"] > 8 * 16 * 2**20


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

    monkeypatch.setattr("models.optim.allocator._glibc", Older)
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
