"""What a study costs over the training of its classifiers, by number of workers, and asked a second time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from pipeline.arrays import Ints
from pipeline.artifacts.cohort import Cohort
from pipeline.evaluate.arms import Arm, Images, Pool
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.study.cell import run_cell
from pipeline.evaluate.study.sites import draw_site
from pipeline.evaluate.training import BuiltIn, Fit
from pipeline.evaluate.truth import Targets
from tests.cohorts import draw, write_cohort
from tests.experiments.benchmarks.machine import in_own_process
from tests.experiments.benchmarks.rows import Row, Skipped

ROOT = Path(__file__).resolve().parents[3]
OVERHEAD_GOAL, WORKERS_GOAL, SECOND_CALL_GOAL = 1.15, 1.8, 10.0
SIDE, A_SITE = 28, 50
SETTINGS = EvaluateSettings(
    seeds=2,
    num_steps=250,
    ratios=(10.0,),
    strengths=(0.5,),
    arms=("real", "real_augmented", "real_strong", "real_duplicated", "real_synthetic", "pretrained"),
)
STUDY = ("--recipe", "smoke", "--regime", "shared", "--sizes", "6", "--draws", "2")


@dataclass(frozen=True)
class Timed(BuiltIn):
    """The built-in classifier, which also notes how long each call took."""

    seconds: list[float] = field(default_factory=list)

    def __call__(
        self,
        arm: Arm,
        parts: Sequence[tuple[Images, Targets]],
        asked: Sequence[Images],
        *,
        num_classes: int,
        seed: int,
    ) -> Fit:
        """Train and predict."""
        started = time.perf_counter()
        fit = super().__call__(arm, parts, asked, num_classes=num_classes, seed=seed)
        self.seconds.append(time.perf_counter() - started)
        return fit


def measure(rounds: int = 3) -> list[Row | Skipped]:
    """Time the arms of one site, with all cores and with one; then a small study and the same again.

    Args:
        rounds: sites; each is timed with all cores and then with one.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    with tempfile.TemporaryDirectory(prefix="phosphor-bench-") as name:
        folder = Path(name)
        cohort = write_cohort(folder / "cohort", num_scans=2400, image_size=SIDE, num_classes=2).path
        every = [in_own_process(_cell, cohort, folder / f"all-{i}", i, cores) for i in range(rounds)]
        one = [in_own_process(_cell, cohort, folder / f"one-{i}", i, cores[:1]) for i in range(rounds)]
        second = _second_call(folder / "study")
    workers = max(len(cores), 1)
    detail = (
        f"{every[0][0]:.1f} s for {every[0][2]} classifiers of {SETTINGS.num_steps} steps at {SIDE}x{SIDE}"
    )
    ratios = tuple(wall * workers / sum_of for wall, sum_of, _ in every)
    rows: list[Row | Skipped] = [
        Row("a study's arms over the training of their classifiers", ratios, OVERHEAD_GOAL, False, detail)
    ]
    faster = f"{workers} workers over one on a study's arms"
    if workers < 2:
        rows.append(Skipped(faster, "one core, or a system that cannot bind a process to one"))
    else:
        gains = tuple(alone[0] / together[0] for alone, together in zip(one, every, strict=True))
        rows.append(Row(faster, gains, WORKERS_GOAL, True, f"{one[0][0]:.1f} s with one worker"))
    detail = "2 sites, 1 generator; the server of the run starts and stops in this time"
    rows.append(Row("the same study again", (second,), SECOND_CALL_GOAL, False, detail, "s"))
    return rows


def _cell(cohort: Path, out: Path, number: int, cores: list[int]) -> tuple[float, float, int]:
    """Run the arms of one site on some cores; return the wall time, and sum and number of the trainings."""
    if cores:
        os.sched_setaffinity(0, cores)
    whole = Cohort(cohort)
    site = draw_site(
        whole, whole.rows("train"), dict.fromkeys((0, 1), A_SITE), seed=0, draw=number, holdout=False
    )
    classifier = Timed(BuiltIn.of(SETTINGS).training)
    made = _made(10 * A_SITE)
    started = time.perf_counter()
    run_cell(whole, site, made, out, SETTINGS, seed=number, classifier=classifier, source="")
    return time.perf_counter() - started, sum(classifier.seconds), len(classifier.seconds)


def _made(count: int) -> Pool:
    rng = np.random.default_rng(1)
    labels: Ints = np.arange(2 * count) % 2
    pixels = np.stack([draw(int(label), SIDE, rng) for label in labels])[:, None]
    return Pool(labels, lambda rows: pixels[rows])


def _second_call(out: Path) -> float:
    """Run a small study of phantoms twice; return the seconds of the second call."""
    from tests.flows.conftest import MICRO, PHANTOM, sets

    quick = (
        *MICRO,
        "evaluate.ratios=[1]",
        "evaluate.strengths=[0.5]",
        'study.arms=["real","real_synthetic"]',
    )
    line = [sys.executable, "-m", "flows", "study", str(PHANTOM), "--out", str(out), *STUDY, *sets(quick)]
    for _ in range(2):
        started = time.perf_counter()
        done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.strip().splitlines()[-1])["missing"] == 0
    return time.perf_counter() - started
