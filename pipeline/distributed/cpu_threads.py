"""Number of CPU threads of a process, alone and with other programs on the machine."""

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
"""Seconds over which waiting for cores is measured, and after which removed threads are tried again."""

CROWDED = 0.2
"""Share of time that threads wait for a core, above which the number of threads is reduced.

Measured on two cores, for training at 32 pixels with two threads: 0.00 alone (182 images per second), 0.37
with a busy loop (54; 103 with one thread), 0.50 with a second such training (43 each; 95 each with one thread
each).
"""


def usable_cores() -> int:
    """Return the number of cores that this process may use, by its affinity and its container's quota."""
    import joblib

    return int(joblib.cpu_count())


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Use `count` CPU threads inside the block, then the previous number."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def threads_here(place: Place) -> int:
    """Return the number of CPU threads of a process of a job whose settings do not set it.

    Torch uses one thread per core of the machine, even if a container may use fewer. torchrun sets
    OMP_NUM_THREADS to 1 if it is not set. This value is taken as unset, and the processes of a node share its
    cores.
    """
    import torch

    offered = torch.get_num_threads()
    if place.size == 1:
        return max(1, min(offered, usable_cores()))
    if offered > 1 or torch.cuda.is_available():
        return offered
    return max(1, usable_cores() // place.local_size)


class SharedCores:
    """Adapts the number of threads of a long computation to the free cores.

    The threads of a computation wait for each other many times per step. If another program takes the core of
    one thread, all others wait for it. So more threads than free cores are slower than fewer threads. Linux
    counts the time that each thread waits for a core; on other systems the number of threads does not change.

    Args:
        most: number of threads while no other program needs the cores.
    """

    def __init__(self, most: int) -> None:
        self.count = self._most = most
        self._since = self._lowered = time.monotonic()
        self._before = _waits() if most > 1 else {}

    def look(self) -> None:
        """Change the number of threads if necessary; call it between two steps."""
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
        """Return the share of time that the threads waited for a core since the last measurement."""
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
