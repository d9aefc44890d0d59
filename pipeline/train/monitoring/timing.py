"""Where the time of a training goes, part by part; costs nothing when nobody asks."""

from __future__ import annotations

import contextlib
import time
from collections import defaultdict
from collections.abc import Iterator

from models.devices import default_device, synchronise

COMPUTING = ("forward", "backward", "optimizer")
"""The parts that training is about; everything else is overhead."""


class Timing:
    """Adds up the wall time of the parts of a training.

    On an accelerator each part waits for it, so that its work is counted where it belongs: the parts then no
    longer overlap, and the whole takes longer than without.

    Attributes:
        seconds: part -> seconds; `wall` is the whole loop, parts are `data`, `draw`, `forward`, `backward`,
            `exchange`, `optimizer` (clipping, AdamW, rounding into the working copy), `average`, `report`,
            `save` and `grid`.
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)

    def part(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Count the time inside the block for part `name`."""
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
    """Counts nothing."""

    def part(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Return a block that counts nothing."""
        return contextlib.nullcontext()
