"""Two gloo processes of one thread each against one process with both threads: rate and loss curves."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pipeline.records import CohortRef
from tests.experiments.benchmarks.rows import Row, Skipped
from tests.experiments.benchmarks.workload import Workload, drawn_cohort, history, stage_rate, workload

ROOT = Path(__file__).resolve().parents[3]
NAME = "training images a second, two processes of one thread over one process of two"
GOAL = 0.9
PROCESSES = 2


def measure(
    rounds: int = 3, steps: int = 0, recipe: str = "", image_size: int = 0, precision: str = "bf16"
) -> Iterator[Row | Skipped]:
    """Train the same global batch both ways, as a user would start it.

    Args:
        rounds: rounds; both ways take turns.
        steps: optimiser steps a round; 0 chooses by the device.
        recipe: another recipe than the device's.
        image_size: another side than the recipe's.
        precision: arithmetic of both: if each probed for itself, loss curves might differ by the choice.
    """
    chosen = workload(recipe, image_size, steps)
    alone, together, differences, points = [], [], [], 0
    with tempfile.TemporaryDirectory(prefix="phosphor-bench-") as name:
        folder = Path(name)
        cohort = drawn_cohort(folder / "cohort", chosen)
        for index in range(rounds):
            try:
                one = _train(cohort, folder / f"one-{index}", chosen, precision, processes=1)
                two = _train(cohort, folder / f"two-{index}", chosen, precision, processes=PROCESSES)
            except RuntimeError as error:
                yield Skipped(NAME, str(error), met=False)
                return
            alone.append(stage_rate(one))
            together.append(stage_rate(two))
            points = len(_losses(one))
            differences.append(largest_difference(_losses(one), _losses(two)))
    detail = (
        f"{together[-1]:.1f} against {alone[-1]:.1f} images a second, global batch of "
        f"{chosen.settings.batch_size}, {precision}; {chosen.words}"
    )
    yield Row(NAME, tuple(b / a for a, b in zip(alone, together, strict=True)), GOAL, True, detail)
    curves = f"{points} reported means over {chosen.settings.num_steps} steps, same global batches"
    yield Row("largest relative difference of the two loss curves", tuple(differences), None, False, curves)


def largest_difference(first: list[float], second: list[float]) -> float:
    """Return the largest |a - b| / |a| of two curves reported at the same steps.

    Raises:
        ValueError: the curves are not of equal length, or empty.
    """
    if len(first) != len(second) or not first:
        raise ValueError(f"curves must be of equal length, got {len(first)} and {len(second)}")
    return max(abs(a - b) / abs(a) for a, b in zip(first, second, strict=True))


def _losses(checkpoint: Path) -> list[float]:
    return [row["loss"] for row in history(checkpoint)]


def _train(cohort: CohortRef, out: Path, chosen: Workload, precision: str, *, processes: int) -> Path:
    """Run `phosphor train`, under torchrun for several processes; return the checkpoint directory.

    Raises:
        RuntimeError: the command failed; the message holds the end of what it said.
    """
    start = [sys.executable]
    if processes > 1:
        start = [*start, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
    command = [*start, "-m", "flows.cli.app", "train", str(cohort.path), "--out", str(out)]
    command += ["--recipe", chosen.recipe, "--set", f"train.precision={precision}"]
    command += ["--set", "train.max_minutes=null"]
    for name in ("num_steps", "grid_every_steps", "checkpoint_every_seconds"):
        command += ["--set", f"train.{name}={getattr(chosen.settings, name)}"]
    threads = str(PROCESSES // processes)
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=3600, check=False
    )
    if done.returncode != 0:
        # What the launcher adds about its workers hides what they said themselves.
        own = [line for line in done.stderr.splitlines() if "torch" not in line and "Error" in line]
        said = (own or done.stderr.splitlines() or [""])[-1].strip()
        raise RuntimeError(f"{processes} process(es) ended with code {done.returncode}: {said}")
    return out
