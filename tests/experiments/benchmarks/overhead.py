"""Share of training wall time outside forward, backward and optimiser."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.records import CohortRef
from pipeline.train.monitoring.timing import Timing
from tests.experiments.benchmarks.machine import in_own_process
from tests.experiments.benchmarks.rows import Row
from tests.experiments.benchmarks.workload import SKIPPED_STEPS, Workload, drawn_cohort, opened, workload

GOAL = 0.03


def measure(rounds: int = 3, steps: int = 0, recipe: str = "", image_size: int = 0) -> list[Row]:
    """Let the training loop time its own parts, each round in a process of its own.

    Args:
        rounds: rounds.
        steps: optimiser steps a round; 0 chooses by the device.
        recipe: another recipe than the device's.
        image_size: another side than the recipe's.
    """
    chosen = workload(recipe, image_size, steps)
    with tempfile.TemporaryDirectory(prefix="phosphor-bench-") as name:
        cohort = drawn_cohort(Path(name) / "cohort", chosen)
        timings = [
            in_own_process(_train, cohort, Path(name) / f"checkpoint-{index}", chosen)
            for index in range(rounds)
        ]
    shares, parts = tuple(share for share, _ in timings), timings[-1][1]
    wall = parts.pop("wall")
    words = ", ".join(f"{part} {seconds / wall:.2%}" for part, seconds in parts.items())
    steps_timed = chosen.settings.num_steps - SKIPPED_STEPS
    detail = f"of {wall:.1f} s for {steps_timed} steps and the last save: {words}; {chosen.words}"
    return [Row("training wall time outside forward, backward and optimiser", shares, GOAL, False, detail)]


class SteadyTiming(Timing):
    """Times the parts of a training from step `SKIPPED_STEPS` on: the first ones fill caches and compile."""

    def __init__(self) -> None:
        super().__init__()
        self._steps, self._started = 0, time.perf_counter()

    def part(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Count the time inside the block; the first part of a step is its data."""
        if name == "data":
            if self._steps == SKIPPED_STEPS:
                self.seconds.clear()
                self._started = time.perf_counter()
            self._steps += 1
        return self._wall() if name == "wall" else super().part(name)

    @contextlib.contextmanager
    def _wall(self) -> Iterator[None]:
        yield
        self.seconds["wall"] = time.perf_counter() - self._started


def _train(cohort: CohortRef, out: Path, chosen: Workload) -> tuple[float, dict[str, float]]:
    """Run the training loop with the watch that it offers; return the share and seconds by part."""
    from pipeline.train.loop import train

    out.mkdir(mode=0o700)
    timing = SteadyTiming()
    train(opened(cohort), out, chosen.settings, seed=0, inputs_digest=cohort.digest, timing=timing)
    return timing.overhead_share, dict(timing.seconds)
