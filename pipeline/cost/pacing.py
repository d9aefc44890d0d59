"""How long a call takes here, found out within a second or two however slow the machine is."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from pipeline.cost.memory import device_peak, reset_device_peak

TIMED_CALLS = 3
LONGEST = 1.0
"""Seconds that a timed call on a CPU should take at most: fewer scans are timed where more take longer."""


@dataclass(frozen=True)
class Pace:
    """What was found out about a call on many scans.

    Attributes:
        seconds: of the call on all of them.
        timed: how many scans it was timed on.
        device_bytes: the most that tensors took on a GPU, what lay there before included; 0 without a GPU.
    """

    seconds: float
    timed: int
    device_bytes: int = 0

    def times(self, factor: float) -> Pace:
        """Return the pace of what takes so many times as long, in the same memory."""
        return replace(self, seconds=factor * self.seconds)


def seconds_of(call: Callable[[], object], timed: int = TIMED_CALLS) -> float:
    """Return the median seconds of a call, after one that is not timed."""
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
    """Return how long `call(count)` takes.

    A CPU takes about as long for each scan of a small batch as of a large one, so there it is asked for one
    scan, then for as many as take `LONGEST`, and the rest is proportion.

    Args:
        call: computes on so many scans.
        count: how many are meant.
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
    # What a call takes whatever it is given, such as an optimiser's update, does not grow.
    each = max(seconds - one, 0.0) / (timed - 1)
    return Pace(seconds + (count - timed) * each, timed)


def saved_bytes(forward: Callable[[int], object]) -> int:
    """Return the bytes that a forward pass keeps for its backward pass for each scan more.

    Args:
        forward: computes on so many scans, which may be 1 or 2; returns what the backward pass begins at.
    """
    import torch

    def kept_by(count: int) -> int:
        kept: dict[int, int] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            kept[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            # Held until it is counted: what is freed in between would be given the same address.
            held = forward(count)
            total = sum(kept.values())
        del held
        return total

    # Weights are kept too, however many scans there are.
    return max(kept_by(2) - kept_by(1), 0)
