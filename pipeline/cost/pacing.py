"""Measurement of the time of a call within a second or two, even on a slow machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pipeline.cost.memory import device_peak, reset_device_peak

TIMED_CALLS = 3
LONGEST = 1.0
"""Longest duration of a timed call on a CPU in seconds; the number of timed scans is chosen accordingly."""


@dataclass(frozen=True)
class Pace:
    """Time and memory of a call on many scans.

    Attributes:
        seconds: seconds of the call on all scans.
        timed: number of scans in the timed call.
        device_bytes: peak GPU memory of tensors, including earlier tensors; 0 without a GPU.
    """

    seconds: float
    timed: int
    device_bytes: int = 0

    def times(self, factor: float) -> Pace:
        """Return the pace with `factor` times the seconds and the same memory."""
        return replace(self, seconds=factor * self.seconds)


def seconds_of(call: Callable[[], object], timed: int = TIMED_CALLS) -> float:
    """Return the median seconds of a call, after one warm-up call."""
    from models.devices import computing, default_device, synchronise
    from models.optim.allocator import held_memory

    device, times = default_device(), []
    with held_memory(), computing(device):
        for _ in range(timed + 1):
            started = time.perf_counter()
            call()
            synchronise(device)
            times.append(time.perf_counter() - started)
    return float(np.median(times[1:]))


def pace_of(call: Callable[[int], object], count: int) -> Pace:
    """Return the time of `call(count)`.

    The time per scan on a CPU depends little on the batch size. So a CPU is timed on one scan, then on as
    many scans as take `LONGEST`, and the time of all scans is extrapolated.

    Args:
        call: function that computes on a given number of scans.
        count: number of scans.
    """
    from models.devices import choices, default_device

    enough = choices(default_device()).probe_batch
    if enough is None:
        reset_device_peak()
        return Pace(seconds_of(lambda: call(count)), count, device_peak())
    one = seconds_of(lambda: call(1), timed=1)
    timed = max(1, min(count, enough, int(LONGEST / max(one, 1e-9))))
    if timed == 1:
        return Pace(one * count, 1)
    seconds = seconds_of(lambda: call(timed), timed=1)
    # Costs that do not depend on the number of scans, such as an optimiser's update, are counted once.
    each = max(seconds - one, 0.0) / (timed - 1)
    return Pace(seconds + (count - timed) * each, timed)
