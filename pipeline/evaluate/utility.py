"""Utility: do synthetic images make a better classifier than the best use of the real ones alone?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Floats
from pipeline.artifacts.evaluation_report import (
    ArmResult,
    Estimate,
    PairedTest,
    PartChange,
    UtilityVerdict,
    auc_in,
    auc_of,
)
from pipeline.evaluate.arm_names import REAL_ARMS, SYNTHETIC_ARMS
from pipeline.evaluate.arms import Arm
from pipeline.evaluate.delong import delong
from pipeline.evaluate.intervals import ArmMetric, Resamples, draw_resamples, measure, smallest
from pipeline.evaluate.logged_test import Readings, TestSplit
from pipeline.evaluate.metrics import (
    Labels,
    Metric,
    Probabilities,
    Weights,
    auc,
    balanced_accuracy,
    brier,
    ece,
    sensitivity_at,
)
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.truth import Part, Truth
from pipeline.wording.evaluation import change_words, effect_words, verdict_of


@dataclass(frozen=True)
class Utility:
    """The utility part of an evaluation.

    Attributes:
        arms: results of all arms.
        verdict: the verdict on the test split.
        chosen: the synthetic arm that is best on val; None if there is none.
        to_read: arms whose predictions for test scans may be compared with labels.
        test: what was read on the test split; None if it was not read.
    """

    arms: tuple[ArmResult, ...]
    verdict: UtilityVerdict
    chosen: Arm | None = None
    to_read: tuple[Arm, ...] = ()
    test: Compared | None = None

    @property
    def test_arms(self) -> tuple[Arm, ...]:
        """Arms that were read on the test split."""
        return () if self.test is None else tuple(self.test.arms)


@dataclass(frozen=True)
class Compared:
    """The arms on one test set, and the verdict there.

    Attributes:
        arms: arm -> metric name -> result.
        verdict: the verdict on the chosen arm.
        draws: the bootstrap draws of all results.
    """

    arms: dict[Arm, dict[str, ArmMetric]]
    verdict: UtilityVerdict
    draws: Resamples


def measure_utility(
    readings: Readings,
    val: Truth,
    test: TestSplit | None,
    *,
    seeds: tuple[int, ...],
    names: tuple[str, ...],
    settings: EvaluateSettings,
    rng: np.random.Generator,
) -> Utility:
    """Choose an arm on val, read test once, and return the verdict.

    Test is read for the real-only arms, for synthetic only, and for the synthetic arm that is best on val.

    Args:
        readings: probabilities on val of every arm.
        val: the val split.
        test: the test split, or None if it cannot be used.
        seeds: classifier seeds in the order of the readings.
        names: classes or findings that the classifiers are asked for.
        settings: settings of the stage.
        rng: random generator of the bootstrap draws.
    """
    metrics = _metrics(settings, names if val.labels.ndim == 2 else (), val)
    draws = draw_resamples(val.patients, len(seeds), settings.num_resamples, rng)
    on_val = {arm: _measure_all(metrics, ps, val.labels, draws) for arm, ps in readings.items()}
    chosen = _best(on_val, SYNTHETIC_ARMS)
    read = tuple(arm for arm in readings if arm.name in (*REAL_ARMS, "synthetic") or arm is chosen)
    found = None
    if test is not None:
        found = compare(test, read, chosen, names=names, num_seeds=len(seeds), settings=settings, rng=rng)
    on_test = {} if found is None else found.arms
    return Utility(
        arms=tuple(_result(arm, seeds, on_val[arm], on_test.get(arm)) for arm in readings),
        verdict=not_measured("the test split has too few patients of a class")
        if found is None
        else found.verdict,
        chosen=chosen,
        to_read=read,
        test=found,
    )


def compare(
    test: TestSplit,
    arms: Sequence[Arm],
    chosen: Arm | None,
    *,
    names: tuple[str, ...],
    num_seeds: int,
    settings: EvaluateSettings,
    rng: np.random.Generator,
    seed_draws: Weights | None = None,
    score: str = "test AUC",
) -> Compared:
    """Read a test set once and compare the chosen arm with the real-only arms there.

    Args:
        test: the test set.
        arms: the arms to read.
        chosen: the synthetic arm that was best on val, one of `arms`; None if there is none.
        names: classes or findings that the classifiers are asked for.
        num_seeds: number of classifier seeds.
        settings: settings of the stage.
        rng: random generator of the bootstrap draws.
        seed_draws: draws of classifier seeds to use, `Resamples.seeds` of another test set, so that both can
            be compared draw by draw.
        score: what changes, in the words of the verdict.
    """
    truth, probabilities = test.read(arms)
    draws = draw_resamples(truth.patients, num_seeds, settings.num_resamples, rng)
    if seed_draws is not None:
        draws = replace(draws, seeds=seed_draws)
    findings = names if truth.labels.ndim == 2 else ()
    groups = truth.measurable_groups(names)
    metrics = _metrics(settings, findings, truth) | {auc_in(name): _auc_of(groups[name]) for name in groups}
    found = {arm: _measure_all(metrics, probabilities[arm], truth.labels, draws) for arm in arms}
    if chosen is None:
        return Compared(found, not_measured("no synthetic arm could be trained"), draws)
    verdict = add_alike(conclude(chosen, _differences(chosen, found), score), chosen, found)
    rival = next(arm for arm in arms if arm.key == verdict.compared_with)
    parts = {name: truth.finding(column) for column, name in enumerate(findings)}
    more = {
        "delong": _delong(truth, probabilities[chosen], probabilities[rival]),
        "by_finding": {
            name: _change(chosen, found, auc_of(name), int(part.scans.sum()), len(parts))
            for name, part in parts.items()
        },
        "by_group": {
            name: _change(chosen, found, auc_in(name), int(part.scans.sum()), len(groups))
            for name, part in groups.items()
        },
    }
    return Compared(found, verdict.model_copy(update=more), draws)


def _delong(
    truth: Truth,
    first: Sequence[npt.NDArray[np.float32]],
    second: Sequence[npt.NDArray[np.float32]],
) -> PairedTest | None:
    """Compare two arms on probabilities averaged over classifier seeds; None unless there are two classes."""
    if truth.labels.ndim == 2 or first[0].shape[1] != 2:
        return None
    own, other = (np.stack(arm)[:, :, 1].mean(axis=0, dtype=np.float64) for arm in (first, second))
    return delong(truth.labels == 1, own, other)


@dataclass(frozen=True)
class Difference:
    """A change in test AUC: `sure` with the 95 % interval, `likely` with the 90 % interval."""

    sure: Estimate
    likely: Estimate


def conclude(chosen: Arm, differences: Mapping[Arm, Difference], score: str = "test AUC") -> UtilityVerdict:
    """Return the verdict from the differences in test AUC between the chosen arm and each real-only arm.

    The chosen arm has to beat all of them, so the strongest rival on test decides. Choosing the rival on val
    instead would favour the synthetic arm if val is easy: with val AUCs of .997 the choice is random, and may
    be a rival that is weak on test.

    Args:
        chosen: the synthetic arm that was best on val.
        differences: real-only arm -> AUC of `chosen` minus AUC of that arm, as from `_differences`.
        score: what changed, in words.
    """
    best_real = min(differences, key=lambda arm: differences[arm].sure.value)
    difference = smallest([own.sure for own in differences.values()])
    likely = smallest([own.likely for own in differences.values()])
    verdict = verdict_of(difference, likely)
    words = (
        f"{chosen.words[0].upper()}{chosen.words[1:]}, the synthetic arm that was best on val, changed "
        f"{score} by {change_words(difference, 'over patients and classifier seeds')} against the "
        f"strongest arm without synthetic images, {best_real.words}: {verdict}. "
        f"{effect_words(verdict, difference)}"
    )
    return UtilityVerdict(
        verdict=verdict,
        chosen_arm=chosen.key,
        compared_with=best_real.key,
        difference=difference,
        likely=None if likely.low is None or likely.high is None else (likely.low, likely.high),
        words=words.strip(),
    )


def add_alike(
    verdict: UtilityVerdict, chosen: Arm, on_test: Mapping[Arm, Mapping[str, ArmMetric]]
) -> UtilityVerdict:
    """Return the verdict with the change against real images that are augmented as those of the chosen arm.

    Augmentation is chosen on val. Where val is easy, the strongest real-only arm on test may be augmented in
    another way, and the difference is not that of the synthetic images alone. Duplicates do not count.

    Args:
        verdict: from `conclude`.
        chosen: the synthetic arm that it is on.
        on_test: arm -> metric -> values of every arm that was read.
    """
    own = (chosen.augmentation, chosen.budget)
    plain = [arm for arm in on_test if arm.name in REAL_ARMS and arm.balanced and arm.ratio is None]
    alike = next((arm for arm in plain if (arm.augmentation, arm.budget) == own), None)
    if alike is None:
        return verdict
    change = on_test[chosen]["auc"].minus(on_test[alike]["auc"])
    words = verdict.words
    if alike.key != verdict.compared_with:
        words += f" Against {alike.words}, which are augmented in the same way: {change_words(change)}."
    return verdict.model_copy(update={"augmented_alike": change, "words": words})


def _auc_of(part: Part) -> Metric:
    """Return a metric: the AUC of a part."""

    def metric(probabilities: Probabilities, labels: Labels, weights: Weights) -> Floats:
        chosen, truth = probabilities[part.scans], labels[part.scans]
        if part.columns:
            chosen, truth = chosen[:, list(part.columns)], truth[:, list(part.columns)]
        return auc(chosen, truth, weights[:, part.scans])

    return metric


def _change(
    chosen: Arm, on_test: Mapping[Arm, Mapping[str, ArmMetric]], metric: str, num_scans: int, comparisons: int
) -> PartChange:
    """Return the change in the AUC of a part against the real-only arm that is best there.

    The interval holds for all parts together (Bonferroni).

    Args:
        chosen: the synthetic arm.
        on_test: arm -> metric -> values.
        metric: name of the AUC.
        num_scans: number of scans of the part.
        comparisons: number of parts.
    """
    others = {arm: on_test[arm][metric] for arm in on_test if arm.name in REAL_ARMS}
    own, level = on_test[chosen][metric], 1.0 - 0.05 / comparisons
    best = max(others, key=lambda arm: float(others[arm].by_seed.mean()))
    change = smallest([own.minus(other, len(others), level=level) for other in others.values()])
    size = {"n": num_scans}
    return PartChange(
        compared_with=best.key,
        real=others[best].estimate.model_copy(update=size),
        synthetic=own.estimate.model_copy(update=size),
        change=change.model_copy(update=size),
    )


def not_measured(reason: str) -> UtilityVerdict:
    """Return a verdict that states why utility was not measured."""
    return UtilityVerdict(
        verdict="not measured",
        chosen_arm="",
        compared_with="",
        difference=None,
        words=f"Utility was not measured: {reason}.",
    )


def _metrics(settings: EvaluateSettings, findings: tuple[str, ...], truth: Truth) -> dict[str, Metric]:
    by_finding = {auc_of(name): _auc_of(truth.finding(column)) for column, name in enumerate(findings)}
    return {
        "auc": auc,
        "balanced_accuracy": balanced_accuracy,
        "sensitivity_at_specificity": sensitivity_at(settings.specificity),
        "ece": ece,
        "brier": brier,
        **by_finding,
    }


def _measure_all(
    metrics: Mapping[str, Metric],
    predictions: Sequence[npt.NDArray[np.float32]],
    labels: Labels,
    draws: Resamples,
) -> dict[str, ArmMetric]:
    wide = [p.astype(np.float64) for p in predictions]
    return {name: measure(metric, wide, labels, draws) for name, metric in metrics.items()}


def _best(on_val: Mapping[Arm, Mapping[str, ArmMetric]], names: Sequence[str]) -> Arm | None:
    among = [arm for arm in on_val if arm.name in names]
    return max(among, key=lambda arm: float(on_val[arm]["auc"].by_seed.mean()), default=None)


def _differences(chosen: Arm, on_test: Mapping[Arm, Mapping[str, ArmMetric]]) -> dict[Arm, Difference]:
    """Return real-only arm -> difference; the upper ends of the intervals hold for all arms together."""
    rivals = [arm for arm in on_test if arm.name in REAL_ARMS]
    own = on_test[chosen]["auc"]
    return {
        arm: Difference(
            sure=own.minus(on_test[arm]["auc"], len(rivals)),
            likely=own.minus(on_test[arm]["auc"], len(rivals), level=0.9),
        )
        for arm in rivals
    }


def _result(
    arm: Arm, seeds: tuple[int, ...], on_val: Mapping[str, ArmMetric], on_test: Mapping[str, ArmMetric] | None
) -> ArmResult:
    return ArmResult(
        arm=arm.name,
        key=arm.key,
        words=arm.words,
        augmentation=arm.augmentation.words,
        ratio=arm.ratio,
        num_real=sum(arm.num_real),
        num_synthetic=sum(arm.num_synthetic),
        val={name: found.estimate for name, found in on_val.items()},
        test={name: found.estimate for name, found in (on_test or {}).items()},
        seeds=seeds,
        val_auc_by_seed=tuple(on_val["auc"].by_seed.tolist()),
        test_auc_by_seed=tuple(on_test["auc"].by_seed.tolist()) if on_test else (),
    )
