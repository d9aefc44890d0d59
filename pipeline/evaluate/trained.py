"""Trains the classifiers of all arms, or reuses trained ones, and collects their predictions."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Ints
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.release import ReleasedImages
from pipeline.evaluate.arms import Arm, plan_arms, training_set
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.training import (
    FitPredict,
    Images,
    Job,
    SmallCnn,
    affordable_steps,
    mean_curve,
    run_jobs,
)
from pipeline.storage import make_private_directory, read_json, write_json

JOBS_FOLDER = "classifiers"
PLAN_NAME = "plan.json"
READER_ARM = "real_augmented"
"""The arm whose classifier measures the label agreement; it never saw a synthetic image."""


@dataclass(frozen=True)
class Trained:
    """Predictions of all arms; empty if no classifier can be trained, with the reason in `notes`.

    Attributes:
        seeds: classifier seeds.
        readings: arm -> for each seed, set name -> probabilities (n, C).
        curves: arm key -> learning curve, mean over seeds.
        notes: notes for the report.
    """

    seeds: tuple[int, ...] = ()
    readings: dict[Arm, list[dict[str, npt.NDArray[np.float32]]]] = field(default_factory=dict)
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def of(self, arm: Arm, name: str) -> list[npt.NDArray[np.float32]]:
        """Return an arm's probabilities (n, C) of one set, seed by seed."""
        return [read[name] for read in self.readings[arm]]

    def reader(self, name: str) -> Ints:
        """Return the class (n,) that the real-trained classifiers predict on average for a set of images."""
        arm = next(arm for arm in self.readings if arm.name == READER_ARM)
        return np.mean(self.of(arm, name), axis=0).argmax(axis=1)


def classifier_seeds(seed: int, count: int) -> tuple[int, ...]:
    """Return the classifier seeds of a run; a larger `count` keeps the first ones."""
    return tuple(int(np.random.SeedSequence([seed, i]).generate_state(1)[0]) for i in range(count))


def train_arms(
    cohort: Cohort,
    release: ReleasedImages,
    folder: Path,
    settings: EvaluateSettings,
    *,
    seed: int,
    classifier: FitPredict,
) -> Trained:
    """Train every arm with every seed, reusing results of an interrupted run in `folder`."""
    classes = cohort.info.classes
    real = [len(cohort.rows("train", label)) for label in range(len(classes))]
    missing = [classes[label] for label, count in enumerate(real) if not count]
    if len(classes) < 2 or missing:
        lacks = f"no train scan of {', '.join(missing)}" if missing else "one class only"
        return Trained(notes=(f"utility and label agreement are not measured: {lacks}",))
    released = [len(release.rows(label)) for label in range(len(classes))]
    arms, notes = plan_arms(real, released, settings.ratios, classes)
    seeds = classifier_seeds(seed, settings.seeds)
    asked: dict[str, Images] = {
        "val": cohort.images(cohort.rows("val")),
        "test": cohort.images(cohort.rows("test")),
        "released": release.images(),
    }
    everything, real_only = ("val", "test", "released"), ("val", "test")
    jobs = {
        arm: [Job(arm, s, everything if arm.name == READER_ARM else real_only) for s in seeds] for arm in arms
    }
    every = [job for of_arm in jobs.values() for job in of_arm]
    if isinstance(classifier, SmallCnn) and settings.max_minutes is not None:
        some = cohort.images(cohort.rows("train")[: settings.batch_size])
        classifier, said = _within_budget(classifier, folder / JOBS_FOLDER, some, len(every), settings)
        notes += said
    results = run_jobs(
        every,
        folder / JOBS_FOLDER,
        lambda arm, s: training_set(arm, cohort, release, s),
        asked,
        fit_predict=classifier,
        num_classes=len(classes),
    )
    curves = {arm.key: mean_curve(of_arm, folder / JOBS_FOLDER) for arm, of_arm in jobs.items()}
    return Trained(
        seeds=seeds,
        readings={arm: [results[job] for job in of_arm] for arm, of_arm in jobs.items()},
        curves={key: curve for key, curve in curves.items() if curve},
        notes=tuple(notes),
    )


def _within_budget(
    classifier: SmallCnn, folder: Path, images: Images, num_jobs: int, settings: EvaluateSettings
) -> tuple[SmallCnn, list[str]]:
    """Return the classifier with as many steps as the time limit allows, and notes on it.

    The number of steps is saved with the classifiers, so that a resumed run uses the same number.
    """
    assert settings.max_minutes is not None
    plan = make_private_directory(folder) / PLAN_NAME
    if not plan.is_file():
        steps = affordable_steps(classifier.training, images, num_jobs, 60.0 * settings.max_minutes)
        write_json(plan, {"num_steps": steps}, private=True)
    steps = int(read_json(plan, role="evaluation")["num_steps"])
    if steps >= settings.num_steps:
        return classifier, []
    said = (
        f"each classifier took {steps} of {settings.num_steps} steps because of "
        f"evaluate.max_minutes={settings.max_minutes:g}; all arms took the same number, so they are "
        "comparable, but each classifier may be worse than with all steps"
    )
    return replace(classifier, training=replace(classifier.training, num_steps=steps)), [said]
