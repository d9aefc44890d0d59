"""What a part of the GPU proof is given: its sizes, its time, and where it may write."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.experiments.benchmarks.gpu.sizes import Sizes
from tests.experiments.benchmarks.rows import Row, Skipped

NO_TIME = "not reached: the part's share of the time was spent"


@dataclass(frozen=True)
class Job:
    """One part's work order.

    Attributes:
        sizes: how much to do.
        until: moment of `time.monotonic` by which the part has to end.
        scratch: folder for what nobody keeps.
        out: folder of the report, for pictures.
    """

    sizes: Sizes
    until: float
    scratch: Path
    out: Path

    def has(self, seconds: float) -> bool:
        """Whether so many seconds are left."""
        return time.monotonic() + seconds <= self.until


@dataclass(frozen=True)
class Part:
    """A part of the proof.

    Attributes:
        name: one word; title: what it shows.
        share: share of the whole time; what a part leaves goes to those after it.
        run: yields each figure as soon as it has it.
    """

    name: str
    title: str
    share: float
    run: Callable[[Job], Iterator[Row | Skipped]]
