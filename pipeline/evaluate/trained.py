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
from pipeline.artifacts.findings import real_findings
from pipeline.artifacts.pixels import StoredPixels
from pipeline.evaluate.arm_names import CHOOSING_ARMS, PLAIN_ARMS
from pipeline.evaluate.arms import (
    Arm,
    Confirmed,
    Pool,
    at_budgets,
    confirmed,
    first_arms,
    later_arms,
    missing_in_groups,
    readings_of,
    training_sets,
    with_confirmed,
)
from pipeline.evaluate.metrics import auc
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.subgroups import Attributes, subgroup_codes
from pipeline.evaluate.training import BuiltIn, Classifier, Job, affordable_steps, mean_curve, run_jobs
from pipeline.evaluate.truth import Question, Targets
from pipeline.storage import make_private_directory, read_json, write_json

JOBS_FOLDER = "classifiers"
PLAN_NAME = "plan.json"


@dataclass(frozen=True)
class Sets:
    """What an experiment trains on and reads.

    Attributes:
        classes: class names.
        question: what the classifiers are asked.
        real: real training images.
        synthetic: synthetic images.
        val: val images, and `val_targets` the answers to the question.
        test: test images; nothing here compares them with labels.
        others: name -> more images that every classifier reads, such as those of another site.
    """

    classes: tuple[str, ...]
    question: Question
    real: Pool
    synthetic: Pool
    val: StoredPixels
    val_targets: Targets
    test: StoredPixels
    others: Mapping[str, StoredPixels] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        cohort: Cohort,
        synthetic: Pool,
        *,
        requested: Attributes | None = None,
        train: Ints | None = None,
        val: Ints | None = None,
        others: Mapping[str, StoredPixels] | None = None,
    ) -> Sets:
        """Return synthetic images and the sets of a cohort, whole or with the rows of a site.

        Args:
            cohort: the cohort.
            synthetic: synthetic images.
            requested: attributes that were requested of them.
            train: rows to train on; None takes the train split.
            val: rows to choose by; None takes the val split.
            others: name -> more images that every classifier reads.
        """
        train = cohort.rows("train") if train is None else train
        val = cohort.rows("val") if val is None else val
        labels, question = np.asarray(cohort.labels).astype(np.int64), Question.of(cohort)
        findings = real_findings(cohort, train) if question.columns else None
        groups, made_groups = subgroup_codes(cohort, train, requested or {}) or (None, None)
        return cls(
            cohort.info.classes,
            question,
            Pool(labels[train], lambda own: cohort.take(train[own]), findings, groups),
            replace(synthetic, groups=made_groups),
            cohort.take(val),
            question.of_scans(cohort, val),
            cohort.take(cohort.rows("test")),
            others or {},
        )


@dataclass(frozen=True)
class Trained:
    """Predictions of all arms; empty if no classifier can be trained, with the reason in `notes`.

    Attributes:
        seeds: classifier seeds.
        readings: arm -> for each seed, set name -> probabilities (n, C or K).
        reader: the real-only arm that is best on val. Its augmentation is that of all later arms, and
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
        """Return an arm's probabilities (n, C or K) of one set, seed by seed."""
        return [read[name] for read in self.readings[arm]]

    def read(self, name: str, targets: Targets) -> Ints:
        """Return what the reader's classifiers read on average in a set of images with these targets."""
        assert self.reader is not None
        return readings_of(np.mean(self.of(self.reader, name), axis=0), targets)


def classifier_seeds(seed: int, count: int) -> tuple[int, ...]:
    """Return the classifier seeds of a run; a larger `count` keeps the first ones."""
    return tuple(int(np.random.SeedSequence([seed, i]).generate_state(1)[0]) for i in range(count))


def train_arms(
    sets: Sets, folder: Path, settings: EvaluateSettings, *, seed: int, classifier: Classifier
) -> Trained:
    """Train every arm with every seed, reusing results of an interrupted run in `folder`.

    The real-only arms come first. The one that is best on val decides how the images of all other
    arms are augmented, and its classifiers, which never saw a synthetic image, read the synthetic ones.
    """
    num_classes = len(sets.classes)
    real, made = sets.real.counts(num_classes), sets.synthetic.counts(num_classes)
    asked_classes = not sets.question.columns
    missing = [name for name, count in zip(sets.classes, real, strict=True) if not count and asked_classes]
    if (num_classes < 2 and asked_classes) or missing:
        lacks = f"no train scan of {', '.join(missing)}" if missing else "one class only"
        return Trained(notes=(f"utility and label agreement are not measured: {lacks}",))
    able: frozenset[str] = getattr(classifier, "arms", PLAIN_ARMS)
    names = [name for name in settings.arms if name in able]
    unable = [name for name in settings.arms if name not in names]
    notes = [f"{', '.join(unable)} are not measured: the classifier cannot train them"] if unable else []
    seeds = classifier_seeds(seed, settings.seeds)
    everything = sets.synthetic.load(np.arange(len(sets.synthetic)))
    asked = {"val": sets.val, "test": sets.test, "synthetic": everything, **sets.others}
    by_all = ("val", "test", *sets.others)
    budgets = settings.budgets if isinstance(classifier, BuiltIn) else (1.0,)
    if set(budgets) != set(settings.budgets):
        notes.append("evaluate.budgets is left out: the classifier is not a built-in one")
    first = at_budgets(first_arms(real, names, settings.strengths), budgets)
    if not first:
        return Trained(
            notes=("utility is not measured: no arm without synthetic images was asked for", *notes)
        )
    plan = functools.partial(
        later_arms,
        real,
        made,
        in_groups=[
            sum(missing_in_groups(sets.real, sets.synthetic, label).values()) for label in range(num_classes)
        ],
        names=names,
        ratios=settings.ratios,
        classes=sets.classes,
    )
    if isinstance(classifier, BuiltIn) and settings.max_minutes is not None:
        some = sets.real.load(np.arange(min(len(sets.real), settings.batch_size)))
        later = at_budgets(plan(augmentation=LIGHT)[0], budgets)
        num_jobs = len(seeds) * sum(arm.budget for arm in (*first, *later))
        classifier, said = _within_budget(classifier, folder / JOBS_FOLDER, some, num_jobs, settings)
        notes += said

    def trained(
        arms: Sequence[Arm], wanted: tuple[str, ...], chosen: Confirmed | None = None
    ) -> dict[Arm, list[dict[str, npt.NDArray[np.float32]]]]:
        jobs = {arm: [Job(arm, s, wanted) for s in seeds] for arm in arms}
        results = run_jobs(
            [job for of_arm in jobs.values() for job in of_arm],
            folder / JOBS_FOLDER,
            lambda arm, s: training_sets(
                arm, sets.real, sets.synthetic, s, question=sets.question, chosen=chosen
            ),
            asked,
            fit_predict=classifier,
            num_classes=len(sets.question.names),
        )
        return {arm: [results[job] for job in of_arm] for arm, of_arm in jobs.items()}

    readings = trained(first, (*by_all, "synthetic"))
    reader = max(first, key=lambda arm: _val_auc(readings[arm], sets.val_targets))
    unrepeated, more = plan(augmentation=reader.augmentation)
    later = at_budgets(unrepeated, budgets)
    chosen = None
    if any(arm.name in CHOOSING_ARMS for arm in later):
        mean = np.mean([read["synthetic"] for read in readings[reader]], axis=0)
        every = np.arange(len(sets.synthetic))
        targets = sets.synthetic.targets(sets.question, every)
        chosen = confirmed(sets.synthetic.labels, targets, mean, seed)
        later, few = with_confirmed(later, chosen)
        more += few
    readings |= trained(later, by_all, chosen)
    curves = {arm.key: mean_curve([Job(arm, s, ()) for s in seeds], folder / JOBS_FOLDER) for arm in readings}
    return Trained(
        seeds=seeds,
        readings=readings,
        reader=reader,
        curves={key: curve for key, curve in curves.items() if curve},
        notes=(*notes, *more),
    )


def _val_auc(readings: Sequence[dict[str, npt.NDArray[np.float32]]], targets: Targets) -> float:
    """Return the mean AUC over seeds on val, of the findings that it can measure; 0 if there are none."""
    scores = [read["val"] for read in readings]
    if targets.ndim == 2:
        kept = (targets == 1).any(axis=0) & (targets == 0).any(axis=0)
        if not kept.any():
            return 0.0
        targets, scores = targets[:, kept], [own[:, kept] for own in scores]
    once = np.ones((1, len(targets)))
    return float(np.nan_to_num(np.mean([auc(own, targets, once)[0] for own in scores])))


def _within_budget(
    classifier: BuiltIn, folder: Path, images: StoredPixels, num_jobs: float, settings: EvaluateSettings
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
