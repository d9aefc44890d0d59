"""A call is timed on as much as takes a second, and what it takes in all follows from that."""

from __future__ import annotations

import pytest

from models.devices import default_device
from pipeline.cost.pacing import LONGEST, pace_of


class Machine:
    """A clock that calls move on: so many seconds a scan, and some whatever the number."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, each: float, fixed: float = 0.0) -> None:
        self.now, self.calls = 0.0, list[int]()
        self._each, self._fixed = each, fixed
        monkeypatch.setattr("pipeline.cost.pacing.time.perf_counter", lambda: self.now)

    def __call__(self, count: int) -> None:
        self.calls.append(count)
        self.now += self._fixed + self._each * count


@pytest.mark.skipif(default_device().type != "cpu", reason="an accelerator is timed on whole batches")
@pytest.mark.parametrize(("each", "fixed"), [(0.001, 0.0), (0.02, 0.3), (0.2, 0.1), (0.02, 0.0), (3.0, 0.0)])
def test_the_whole_follows_from_a_part_however_slow_the_machine(
    monkeypatch: pytest.MonkeyPatch, each: float, fixed: float
) -> None:
    machine = Machine(monkeypatch, each, fixed)
    pace = pace_of(machine, 128)
    if each < LONGEST:
        assert pace.seconds == pytest.approx(fixed + 128 * each)
    assert machine.now <= 2 * (fixed + each) + 2 * max(LONGEST, fixed + each) + 2 * fixed
    assert pace.timed == max(machine.calls) <= 32


@pytest.mark.skipif(default_device().type != "cpu", reason="an accelerator is timed on whole batches")
def test_a_single_scan_is_all_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(monkeypatch, 0.5)
    assert pace_of(machine, 1).seconds == pytest.approx(0.5)
    assert set(machine.calls) == {1}
