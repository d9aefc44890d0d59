"""Measures the time of the parts of a training, only on request."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator

from models.devices import default_device, synchronise

COMPUTING = ("forward", "backward", "optimizer")
"""The parts that are not overhead."""


class Timing:
    """Sums the wall time of the parts of a training.

    Each part waits for the accelerator, so that its work counts for the right part. The parts then do not
    overlap, and the whole takes longer than without timing.

    Attributes:
        seconds: part -> seconds; `wall` is the whole loop, parts are `data`, `draw`, `forward`, `backward`,
            `exchange`, `optimizer` (clipping, AdamW, rounding into the working copy), `average`, `report`,
            `save` and `grid`.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def part(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Return a context that counts the time of its block for part `name`."""
        return self._counted(name)

    @contextlib.contextmanager
    def _counted(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        synchronise(default_device())
        self.seconds[name] += time.perf_counter() - started

    @property
    def overhead_share(self) -> float:
        """Share of the wall time outside forward, backward and optimiser, in [0, 1]."""
        return 1.0 - sum(self.seconds[name] for name in COMPUTING) / max(self.seconds["wall"], 1e-9)


class NoTiming(Timing):
    """Measures nothing."""

    def part(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Return a context that does nothing."""
        return contextlib.nullcontext()
