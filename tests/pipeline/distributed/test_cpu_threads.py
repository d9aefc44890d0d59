"""Threads that other programs leave no core to are taken away, and given back."""

from __future__ import annotations

import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.distributed import cpu_threads as module
from pipeline.distributed.cpu_threads import SharedCores, threads, threads_here, usable_cores
from pipeline.distributed.process_group import Place


@pytest.fixture
def busy() -> Iterator[None]:
    """Keep each core busy with two other programs."""
    programs = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2 * usable_cores())
    ]
    yield
    for program in programs:
        program.kill()
        program.wait()


@pytest.mark.skipif(not Path("/proc/self/schedstat").is_file(), reason="needs Linux's scheduler statistics")
def test_a_computation_beside_others_goes_on_with_fewer_threads(
    busy: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.5)
    matrix = torch.rand(500, 500)
    with threads(4):
        cores, until = SharedCores(4), time.monotonic() + 60.0
        while cores.count > 1 and time.monotonic() < until:
            matrix @ matrix
            cores.look()
        assert cores.count == torch.get_num_threads() == 1


class Clock:
    """Seconds, and what four threads have run and waited by then."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now, self.ran, self.waited = 0.0, 0.0, 0.0
        monkeypatch.setattr(module.time, "monotonic", lambda: self.now)
        monkeypatch.setattr(module, "_waits", self.waits)

    def waits(self) -> dict[str, tuple[int, int]]:
        return {"1": module._Times(int(1e9 * self.ran), int(1e9 * self.waited))}

    def go_on(self, cores: SharedCores, seconds: float, free: int) -> int:
        until = self.now + seconds
        while self.now < until:
            crowded = 1.0 - min(1.0, free / cores.count)
            self.now += 1.0
            self.ran += 1.0 - crowded
            self.waited += crowded
            cores.look()
        return cores.count


def test_threads_that_were_taken_away_are_tried_again_and_stay_when_the_cores_are_free(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(monkeypatch)
    with threads(1), caplog.at_level(logging.INFO, logger="pipeline.distributed.cpu_threads"):
        cores = SharedCores(4)
        assert clock.go_on(cores, 30, free=4) == 4
        assert clock.go_on(cores, 12, free=2) == 2
        assert clock.go_on(cores, 50, free=2) == 2
        # Tried again after a minute: in vain, then for good.
        caplog.clear()
        assert clock.go_on(cores, 60, free=2) == 2
        assert [record.args and record.args[0] for record in caplog.records][:2] == [4, 2]
        assert clock.go_on(cores, 70, free=4) == torch.get_num_threads() == 4
    assert "equal up to rounding" in caplog.text


def test_a_number_of_threads_that_was_asked_for_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    with threads(3):
        assert clock.go_on(SharedCores(1), 30, free=0) == 1
        assert torch.get_num_threads() == 3


def test_a_container_that_may_use_fewer_cores_than_the_machine_has_gets_as_many_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    assert usable_cores() == 1
    with threads(8):
        assert threads_here(Place(0, 1, 0, 1)) == 1
