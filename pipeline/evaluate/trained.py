"""Trains the classifiers of all arms, or reuses trained ones, and collects their predictions."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from models.evaluation.augmentation import LIGHT
from pipeline.arrays import Ints
from pipeline.artifacts.cohort import Cohort
from pipeline.evaluate.arm_names import CHOOSING_ARMS, PLAIN_ARMS
from pipeline.evaluate.arms import (
    Arm,
    Confirmed,
    Images,
    Pool,
    confirmed,
    first_arms,
    later_arms,
    training_sets,
)
from pipeline.evaluate.metrics import auc
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.training import BuiltIn, FitPredict, Job, affordable_steps, mean_curve, run_jobs
from pipeline.storage import make_private_directory, read_json, write_json

JOBS_FOLDER = "classifiers"
PLAN_NAME = "plan.json"


@dataclass(frozen=True)
class Sets:
    """What an experiment trains on and reads.

    Attributes:
        classes: class names.
        real: real training images.
        synthetic: synthetic images.
        val: val images, and `val_labels` (n,) their classes.
        test: test images; nothing here compares them with labels.
        external: name -> images of the cohort of another site, likewise.
    """

    classes: tuple[str, ...]
    real: Pool
    synthetic: Pool
    val: Images
    val_labels: Ints
    test: Images
    external: Mapping[str, Images] = field(default_factory=dict)

    @classmethod
    def of(
        cls, cohort: Cohort, synthetic: Pool, *, train: Ints | None = None, val: Ints | None = None
    ) -> Sets:
        """Return synthetic images and the sets of a cohort, whole or with the rows of a site."""
        train = cohort.rows("train") if train is None else train
        val = cohort.rows("val") if val is None else val
        labels = np.asarray(cohort.labels).astype(np.int64)
        return cls(
            cohort.info.classes,
            Pool(labels[train], lambda own: cohort.images(train[own])),
            synthetic,
            cohort.images(val),
            labels[val],
            cohort.images(cohort.rows("test")),
        )


@dataclass(frozen=True)
class Trained:
    """Predictions of all arms; empty if no classifier can be trained, with the reason in `notes`.

    Attributes:
        seeds: classifier seeds.
        readings: arm -> for each seed, set name -> probabilities (n, C).
        reader: the arm of real images that is best on val. Its augmentation is that of all later arms, and
            its classifiers read the synthetic images.
        curves: arm key -> learning curve, mean over seeds.
        notes: notes for the report.
    """

    seeds: tuple[int, ...] = ()
    readings: dict[Arm, list[dict[str, npt.NDArray[np.float32]]]] = field(default_factory=dict)
    reader: Arm | None = None
    curves: dict[str, dict[str, list[float]]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def of(self, arm: Arm, name: str) -> list[npt.NDArray[np.float32]]:
        """Return an arm's probabilities (n, C) of one set, seed by seed."""
        return [read[name] for read in self.readings[arm]]

    def read(self, name: str) -> Ints:
        """Return the class (n,) that classifiers of real images predict on average for a set of images."""
        assert self.reader is not None
        return np.mean(self.of(self.reader, name), axis=0).argmax(axis=1)


def classifier_seeds(seed: int, count: int) -> tuple[int, ...]:
    """Return the classifier seeds of a run; a larger `count` keeps the first ones."""
    return tuple(int(np.random.SeedSequence([seed, i]).generate_state(1)[0]) for i in range(count))


def train_arms(
    sets: Sets, folder: Path, settings: EvaluateSettings, *, seed: int, classifier: FitPredict
) -> Trained:
    """Train every arm with every seed, reusing results of an interrupted run in `folder`.

    The arms of real images alone come first. The one that is best on val decides how the images of all other
    arms are augmented, and its classifiers, which never saw a synthetic image, read the synthetic ones.
    """
    num_classes = len(sets.classes)
    real, made = sets.real.counts(num_classes), sets.synthetic.counts(num_classes)
    missing = [sets.classes[label] for label, count in enumerate(real) if not count]
    if num_classes < 2 or missing:
        lacks = f"no train scan of {', '.join(missing)}" if missing else "one class only"
        return Trained(notes=(f"utility and label agreement are not measured: {lacks}",))
    able: frozenset[str] = getattr(classifier, "arms", PLAIN_ARMS)
    names = [name for name in settings.arms if name in able]
    unable = [name for name in settings.arms if name not in names]
    notes = [f"{', '.join(unable)} are not measured: the classifier cannot train them"] if unable else []
    seeds = classifier_seeds(seed, settings.seeds)
    everything = sets.synthetic.load(np.arange(len(sets.synthetic)))
    asked = {"val": sets.val, "test": sets.test, "synthetic": everything, **sets.external}
    first = first_arms(real, names, settings.strengths)
    if not first:
        return Trained(notes=("utility is not measured: no arm of real images alone was asked for", *notes))
    plan = functools.partial(
        later_arms, real, made, names=names, ratios=settings.ratios, classes=sets.classes
    )
    num_later = len(plan(augmentation=LIGHT)[0])
    if isinstance(classifier, BuiltIn) and settings.max_minutes is not None:
        some = sets.real.load(np.arange(min(len(sets.real), settings.batch_size)))
        num_jobs = len(seeds) * (len(first) + num_later)
        classifier, said = _within_budget(classifier, folder / JOBS_FOLDER, some, num_jobs, settings)
        notes += said

    def trained(
        arms: Sequence[Arm], wanted: tuple[str, ...], chosen: Confirmed | None = None
    ) -> dict[Arm, list[dict[str, npt.NDArray[np.float32]]]]:
        jobs = {arm: [Job(arm, s, wanted) for s in seeds] for arm in arms}
        results = run_jobs(
            [job for of_arm in jobs.values() for job in of_arm],
            folder / JOBS_FOLDER,
            lambda arm, s: training_sets(arm, sets.real, sets.synthetic, s, chosen),
            asked,
            fit_predict=classifier,
            num_classes=num_classes,
        )
        return {arm: [results[job] for job in of_arm] for arm, of_arm in jobs.items()}

    readings = trained(first, tuple(asked))
    reader = max(first, key=lambda arm: _val_auc(readings[arm], sets.val_labels))
    later, more = plan(augmentation=reader.augmentation)
    chosen = None
    if any(arm.name in CHOOSING_ARMS for arm in later):
        mean = np.mean([read["synthetic"] for read in readings[reader]], axis=0)
        chosen = confirmed(sets.synthetic.labels, mean, seed)
    readings |= trained(later, ("val", "test", *sets.external), chosen)
    curves = {arm.key: mean_curve([Job(arm, s, ()) for s in seeds], folder / JOBS_FOLDER) for arm in readings}
    return Trained(
        seeds=seeds,
        readings=readings,
        reader=reader,
        curves={key: curve for key, curve in curves.items() if curve},
        notes=(*notes, *more),
    )


def _val_auc(readings: Sequence[dict[str, npt.NDArray[np.float32]]], labels: Ints) -> float:
    """Return the mean AUC over seeds on val; 0 if a class is missing there."""
    once = np.ones((1, len(labels)))
    return float(np.nan_to_num(np.mean([auc(read["val"], labels, once)[0] for read in readings])))


def _within_budget(
    classifier: BuiltIn, folder: Path, images: Images, num_jobs: int, settings: EvaluateSettings
) -> tuple[BuiltIn, list[str]]:
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
