"""Two tiny sets of images, and a call that trains classifiers of somebody's own on them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from models.evaluation.augmentation import Augmentation
from pipeline.evaluate.arms import Arm
from pipeline.evaluate.classifiers import classifier_of
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.trained import JOBS_FOLDER
from pipeline.evaluate.training import Job, run_jobs
from pipeline.evaluate.truth import Question

CLASSES = ("plain", "bright, very")
QUESTION = Question(CLASSES)
FINDINGS = Question(("dim", "bright"), columns=(1, 0))
STATES = np.array([[1, 0], [1, 0], [1, np.nan], [1, 0], [0, 1], [0, 1], [np.nan, 1], [0, 1]])
"""The findings of the training images: NaN is unknown."""
ARM = Arm("real_balanced", None, (4, 4), (0, 0), Augmentation("none"))
SEED = 2**32 - 1

Scores = dict[str, np.ndarray]
Train = Callable[..., list[Scores]]


def images(labels: np.ndarray, bit_depth: int = 8) -> np.ndarray:
    """Pixels of noise, the brighter for the second class."""
    rng = np.random.default_rng(len(labels))
    top = 2**bit_depth - 1
    values = rng.uniform(0.1, 0.4, (len(labels), 1, 5, 7)) + 0.4 * labels[:, None, None, None]
    return np.rint(top * values).astype(np.uint8 if bit_depth == 8 else np.uint16)


@pytest.fixture
def train(tmp_path: Path) -> Train:
    def call(
        arms: tuple[Arm, ...] = (ARM,), *, bit_depth: int = 8, findings: bool = False, **settings: object
    ) -> list[Scores]:
        given = EvaluateSettings.model_validate(settings)
        labels = np.repeat([0, 1], 4)
        question, targets = (FINDINGS, STATES) if findings else (QUESTION, labels)
        asked = {
            name: images(np.arange(count) % 2, bit_depth)
            for name, count in (("val", 3), ("test", 4), ("synthetic", 2))
        }
        jobs = [Job(arm, SEED, ("val", "test", "synthetic")) for arm in arms]
        results = run_jobs(
            jobs,
            tmp_path / "out" / JOBS_FOLDER,
            lambda _arm, _seed: [(images(labels, bit_depth), targets)],
            asked,
            fit_predict=classifier_of(given, question, tmp_path / "out"),
            num_classes=2,
        )
        return [results[job] for job in jobs]

    return call


def processes_below(folder: Path) -> list[int]:
    """Return the processes that have this folder in their arguments or work in it."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace")
            state = (entry / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()[0]
        except OSError:  # it has just ended
            continue
        if str(folder) in arguments and state != "Z":
            found.append(int(entry.name))
    return found


def wait_until(condition: Callable[[], bool], seconds: float = 60.0) -> bool:
    """Return whether a condition comes true in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True
