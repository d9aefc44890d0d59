"""Memory is read from the system and from the accelerator's own account."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models import devices
from pipeline.cost import pacing
from pipeline.cost.memory import device_peak, reset_device_peak, resident_bytes


def test_the_largest_resident_memory_grows_with_what_is_written() -> None:
    before = resident_bytes()
    held = np.ones(before // 8 + 2**23, dtype=np.float64)
    assert resident_bytes() >= held.nbytes > before


class Gpu:
    """Stands for a GPU's allocator: what lies there, and the most that did since the last reset."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.held = self.peak = 1000
        self.device = torch.device("cuda", 0)
        monkeypatch.setattr(devices, "default_device", lambda: self.device)
        monkeypatch.setattr(devices, "synchronise", lambda _device: None)
        monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", self._reset)
        monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda _device: self.peak)

    def _reset(self, device: torch.device) -> None:
        assert device == self.device
        self.peak = self.held

    def use(self, count: int) -> None:
        self.peak = max(self.peak, self.held + count)


def test_the_peak_of_a_call_counts_what_lay_there_before_and_nothing_of_earlier_calls(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Gpu(monkeypatch)
    gpu.use(10**6)
    reset_device_peak()
    gpu.use(500)
    assert device_peak() == 1500


def test_a_call_on_an_accelerator_is_timed_whole_with_the_memory_that_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gpu = Gpu(monkeypatch)
    gpu.use(10**6)
    pace = pacing.pace_of(lambda count: gpu.use(7 * count), 64)
    assert (pace.timed, pace.device_bytes) == (64, 1000 + 7 * 64)
    assert pace.times(3).device_bytes == pace.device_bytes


def test_without_an_accelerator_nothing_is_counted_and_nothing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(devices, "default_device", lambda: torch.device("cpu"))
    reset_device_peak()
    assert device_peak() == 0
    assert pacing.pace_of(lambda _count: None, 4).device_bytes == 0
