"""How many CPU threads a process computes with, alone and beside other programs."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pipeline.distributed.process_group import Place

logger = logging.getLogger(__name__)

LOOK_SECONDS, AGAIN_SECONDS = 4.0, 60.0
"""A shared core is looked for over so long; the threads that were taken away are tried again so often."""

CROWDED = 0.2
"""Share of their time that threads wait for a core, above which there are too many of them.

Measured on two cores, training at 32 pixels on two threads: .00 alone (182 images a second), .37 beside a
busy loop (54, and 103 on one thread), .50 beside the same training (43 each, and 95 each on one thread each).
"""


def usable_cores() -> int:
    """Return how many cores this process may use, by its affinity and by the quota of its container."""
    import joblib

    return int(joblib.cpu_count())


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with `count` CPU threads inside the block, then as before."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_here(place: Place) -> int:
    """Return the CPU threads of a process of a job whose settings leave them open.

    Torch offers a thread for each core of the machine, whatever a container may use of it. torchrun sets
    OMP_NUM_THREADS to 1 where it is not set: that stands for no choice, and the processes of a node then
    share its cores.
    """
    import torch

    offered = torch.get_num_threads()
    if place.size == 1:
        return max(1, min(offered, usable_cores()))
    if offered > 1 or torch.cuda.is_available():
        return offered
    return max(1, usable_cores() // place.local_size)


class SharedCores:
    """Fits the threads of a long computation to the cores that other programs leave it.

    The threads of a computation wait for each other many times a step. Where another program takes the core
    of one of them, all others wait until it gets the core back, so that more threads than free cores are
    slower than fewer. Linux counts how long each thread waited for a core; elsewhere their number stays.

    Args:
        most: threads to compute with while nobody else needs the cores.
    """

    def __init__(self, most: int) -> None:
        self.count = self._most = most
        self._since = self._lowered = time.monotonic()
        self._before = _waits() if most > 1 else {}

    def look(self) -> None:
        """Take or give back threads where it is time to; call it between two steps."""
        if self._most == 1 or time.monotonic() - self._since < LOOK_SECONDS:
            return
        crowded = self._crowded()
        if crowded > CROWDED and self.count > 1:
            self._set(max(1, min(self.count - 1, round(self.count * (1.0 - crowded)))))
            self._lowered = time.monotonic()
        elif self.count < self._most and time.monotonic() - self._lowered >= AGAIN_SECONDS:
            self._set(self._most)

    def _set(self, count: int) -> None:
        import torch

        logger.info(
            "%d of %d threads compute from here on, as other programs %s cores: equal up to rounding",
            count,
            self._most,
            "need the" if count < self._most else "may have left their",
        )
        self.count = count
        torch.set_num_threads(count)

    def _crowded(self) -> float:
        """Return the share of their time that the threads waited for a core since the last look."""
        now = _waits()
        spent = [
            (times.running - before.running, times.waiting - before.waiting)
            for thread, times in now.items()
            for before in [self._before.get(thread, _Times(0, 0))]
        ]
        self._before, self._since = now, time.monotonic()
        waiting = sum(waited for _, waited in spent)
        return waiting / max(sum(ran for ran, _ in spent) + waiting, 1)


class _Times(NamedTuple):
    running: int
    waiting: int


def _waits() -> dict[str, _Times]:
    """Return the nanoseconds that each thread of this process ran and waited for a core (schedstat)."""
    found = {}
    for path in Path("/proc/self/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, ValueError):
            running, waiting, _ = path.read_text(encoding="ascii").split()
            found[path.parent.name] = _Times(int(running), int(waiting))
    return found
