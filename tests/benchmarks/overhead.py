"""Share of training wall time outside forward, backward and optimiser."""

from __future__ import annotations

import functools
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.records import CohortRef
from tests.benchmarks.machine import in_own_process, synchronise
from tests.benchmarks.rows import Row
from tests.benchmarks.workload import SKIPPED_STEPS, Workload, drawn_cohort, workload

GOAL = 0.03
COMPUTING = ("forward", "backward", "optimiser")


def measure(rounds: int = 3, steps: int = 0, recipe: str = "", image_size: int = 0) -> list[Row]:
    """Time the parts of the train stage's loop from outside, each round in a process of its own.

    Args:
        rounds: rounds.
        steps: optimiser steps a round; 0 chooses by the device.
        recipe: another recipe than the device's.
        image_size: another side than the recipe's.
    """
    chosen = workload(recipe, image_size, steps)
    parts = []
    with tempfile.TemporaryDirectory(prefix="phosphor-bench-") as name:
        cohort = drawn_cohort(Path(name) / "cohort", chosen)
        for index in range(rounds):
            parts.append(in_own_process(_train, cohort, Path(name) / f"checkpoint-{index}", chosen))
    shares = tuple(1.0 - sum(part[key] for key in COMPUTING) / part["wall"] for part in parts)
    last = parts[-1]
    words = ", ".join(
        f"{key} {seconds / last['wall']:.1%}" for key, seconds in sorted(last.items()) if key != "wall"
    )
    steps_timed = chosen.settings.num_steps - SKIPPED_STEPS
    detail = f"of {last['wall']:.1f} s for {steps_timed} steps: {words}; {chosen.words}"
    return [Row("training wall time outside forward, backward and optimiser", shares, GOAL, False, detail)]


def _train(cohort: CohortRef, out: Path, chosen: Workload) -> dict[str, float]:
    """Run the train stage with a watch around each part; return seconds by part and of the `wall`.

    The wall runs from the first step that counts to the end of the run, the last save included. What lies
    inside the optimiser part is gradient clipping, AdamW, and rounding between master and working copy.
    """
    import torch

    from models.denoiser import Denoiser
    from models.ema import ExponentialMovingAverage
    from models.precision import default_device
    from models.working_copy import WorkingCopy
    from pipeline.train import loop, run_train

    watch = _Watch(default_device())
    watch.around(Denoiser, "forward", "forward")
    watch.around(torch.Tensor, "backward", "backward")
    watch.around(torch.optim.AdamW, "step", "optimiser")
    watch.around(torch.nn.utils, "clip_grad_norm_", "optimiser")
    for name in ("return_gradients", "take_weights", "clear_gradients"):
        watch.around(WorkingCopy, name, "optimiser")
    watch.around(ExponentialMovingAverage, "update", "weight average")
    watch.around(loop, "load_batch", "data")
    watch.before(loop.Trainer, "step", at_call=SKIPPED_STEPS, do=watch.restart)
    watch.after(loop.Trainer, "run", do=watch.stop)
    run_train(cohort, out, chosen.settings, seed=0)
    return dict(watch.seconds)


class _Watch:
    """Adds up the time inside functions that it is put around, in this process."""

    def __init__(self, device: Any) -> None:
        self.device = device
        self.seconds: dict[str, float] = defaultdict(float)
        self.started = time.perf_counter()

    def around(self, owner: Any, name: str, part: str) -> None:
        """Count the time inside `owner.name` for `part`, the accelerator's work included."""
        inner = getattr(owner, name)

        @functools.wraps(inner)
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                synchronise(self.device)
                self.seconds[part] += time.perf_counter() - started

        setattr(owner, name, timed)

    def before(self, owner: Any, name: str, *, at_call: int, do: Callable[[], None]) -> None:
        """Call `do` before the call number `at_call` (from 0) of `owner.name`."""
        inner, calls = getattr(owner, name), [0]

        @functools.wraps(inner)
        def counted(*args: Any, **kwargs: Any) -> Any:
            if calls[0] == at_call:
                do()
            calls[0] += 1
            return inner(*args, **kwargs)

        setattr(owner, name, counted)

    def after(self, owner: Any, name: str, *, do: Callable[[], None]) -> None:
        """Call `do` after every call of `owner.name`."""
        inner = getattr(owner, name)

        @functools.wraps(inner)
        def followed(*args: Any, **kwargs: Any) -> Any:
            result = inner(*args, **kwargs)
            do()
            return result

        setattr(owner, name, followed)

    def restart(self) -> None:
        """Forget what was counted and start the wall clock."""
        self.seconds.clear()
        self.started = time.perf_counter()

    def stop(self) -> None:
        """Note the wall time since the start."""
        self.seconds["wall"] = time.perf_counter() - self.started
