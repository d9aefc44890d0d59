"""The verdict follows the interval, choices are made on val, and test is read once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from models.evaluation.augmentation import LIGHT, Augmentation
from pipeline.artifacts.evaluation_report import Estimate
from pipeline.evaluate.agreement import label_agreement, shuffled_agreement
from pipeline.evaluate.arms import Arm
from pipeline.evaluate.logged_test import TestSplit
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.truth import Truth
from pipeline.evaluate.utility import Difference, conclude, measure_utility
from pipeline.wording.evaluation import LIKELY

REAL = Arm("real", None, (50, 50), (0, 0), Augmentation("none"), balanced=False)
AUGMENTED = Arm("real_augmented", None, (50, 50), (0, 0), LIGHT)
HALF = Arm("real_synthetic", 0.5, (50, 50), (25, 25), LIGHT)
WHOLE = Arm("real_synthetic", 1.0, (50, 50), (50, 50), LIGHT)
ALONE = Arm("synthetic", None, (0, 0), (50, 50), LIGHT)
NAMES = ("normal", "pneumonia")
SETTINGS = EvaluateSettings(num_resamples=300, seeds=3)


def readings(truth: Truth, strength: float, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(3):
        score = 1 / (1 + np.exp(-(rng.normal(size=len(truth.labels)) + strength * (truth.labels - 0.5))))
        found.append(np.stack([1 - score, score], axis=1).astype(np.float32))
    return found


def between(low: float, high: float, *, n: int = 9) -> Difference:
    """Return a difference whose 95 % interval is given; the 90 % one is narrower as that of a normal."""
    value, half = (low + high) / 2, (high - low) / 2
    likely = Estimate(value=value, low=value - LIKELY * half, high=value + LIKELY * half, n=n)
    return Difference(Estimate(value=value, low=low, high=high, n=n), likely)


def split(n: int) -> Truth:
    return Truth(np.arange(n) % 2, np.arange(n) // 2)


def measured(tmp_path: Path, val_strength: dict[Arm, float], test_strength: dict[Arm, float]):
    val, test = split(200), split(300)
    on_test = {arm: readings(test, s, i) for i, (arm, s) in enumerate(test_strength.items())}
    turnstile = TestSplit(test, on_test, tmp_path / "log", cohort="c", evaluation="e", resumed=False)
    on_val = {arm: readings(val, s, 50 + i) for i, (arm, s) in enumerate(val_strength.items())}
    rng = np.random.default_rng(0)
    return measure_utility(on_val, val, turnstile, seeds=(1, 2, 3), names=NAMES, settings=SETTINGS, rng=rng)


@pytest.mark.parametrize(
    ("bounds", "verdict"),
    [
        ((0.01, 0.03), "helps"),
        ((-0.03, -0.01), "harms"),
        ((-0.01, 0.02), "no measurable effect"),
        ((-0.01, 0.021), "could not tell"),
        ((-0.25, 0.2), "could not tell"),
        ((-0.243, 0.0007), "possibly harms"),
        ((-0.0007, 0.243), "possibly helps"),
        # So small that it does not matter, yet the 90 % interval lies below zero.
        ((-0.01, 0.0005), "possibly harms"),
    ],
)
def test_the_verdict_follows_the_interval(bounds: tuple[float, float], verdict: str) -> None:
    found = conclude(HALF, {REAL: between(*bounds)})
    assert found.verdict == verdict
    assert f": {verdict}." in found.words
    assert (found.chosen_arm, found.compared_with) == ("real_synthetic-0.5", "real")
    assert found.likely is not None and bounds[0] < found.likely[0] < found.likely[1] < bounds[1]


def test_without_an_interval_nothing_can_be_told() -> None:
    alone = Estimate(value=0.5)
    found = conclude(HALF, {REAL: Difference(alone, alone)})
    assert (found.verdict, found.likely) == ("could not tell", None)
    assert "There is no interval" in found.words


def test_no_effect_states_what_is_excluded_and_too_wide_an_interval_what_it_would_take() -> None:
    narrow = conclude(HALF, {REAL: between(-0.01, 0.02)}).words
    assert "An effect of more than 0.02 is excluded; one between -0.0100 and +0.0200" in narrow
    wide = conclude(HALF, {REAL: between(-0.22, 0.18, n=100)}).words
    # A half width of .2 is ten times .02: a hundred times the 100 scans.
    assert "The effect may be anything from -0.2200 to +0.1800." in wide
    assert "at least 10,000 test scans; there are 100." in wide
    # Narrower than .02, but not within it: a half width of .016 must become .02 - .009.
    aside = conclude(HALF, {REAL: between(-0.025, 0.007, n=100)}).words
    assert "A verdict at this difference needs about 220 test scans; there are 100." in aside
    below = conclude(HALF, {REAL: between(-0.243, 0.0007, n=100)}).words
    assert "The 90 % interval lies below zero; the 95 % interval does not." in below


def test_every_real_only_arm_has_to_be_beaten():
    strong, weak = between(-0.004, 0.001), between(0.004, 0.02)
    found = conclude(HALF, {REAL: weak, AUGMENTED: strong})
    assert (found.verdict, found.compared_with) == ("no measurable effect", "real_augmented")
    assert found.difference == strong.sure
    # The interval of the smallest difference: the lowest of all lower and of all upper ends.
    wide, close = between(-0.02, 0.05), between(0.001, 0.003)
    mixed = conclude(HALF, {REAL: wide, AUGMENTED: close}).difference
    assert mixed is not None and (mixed.value, mixed.low, mixed.high) == (0.002, -0.02, 0.003)
    nearly = between(-0.0005, 0.02)
    assert conclude(HALF, {REAL: weak, AUGMENTED: nearly}).verdict == "possibly helps"
    assert conclude(HALF, {REAL: nearly, AUGMENTED: strong}).verdict == "no measurable effect"


def test_a_better_synthetic_arm_helps_and_a_worse_one_harms(tmp_path):
    better = {REAL: 1.0, AUGMENTED: 1.0, HALF: 3.0}
    worse = {REAL: 3.0, AUGMENTED: 3.0, HALF: 1.0}
    equal = {REAL: 2.0, AUGMENTED: 2.0, HALF: 2.0}
    for strengths, verdict in ((better, "helps"), (worse, "harms"), (equal, "could not tell")):
        found = measured(tmp_path, strengths, strengths)
        assert found.verdict.verdict == verdict
        assert found.verdict.likely is not None and found.verdict.difference is not None
        assert found.verdict.difference.low < found.verdict.likely[0]


def test_a_change_that_augmentation_alone_makes_is_not_taken_for_that_of_the_images(tmp_path):
    plain = replace(REAL, name="real_balanced", balanced=True)
    chosen = replace(HALF, augmentation=Augmentation("none"))
    found = measured(
        tmp_path, {plain: 2, AUGMENTED: 2, chosen: 2}, {plain: 1, AUGMENTED: 3, chosen: 1}
    ).verdict
    assert (found.verdict, found.compared_with) == ("harms", "real_augmented")
    alike = found.augmented_alike
    assert alike is not None and alike.low is not None and alike.high is not None
    assert alike.low < 0 < alike.high
    assert f"Against {plain.words}, which are augmented in the same way: {alike.value:+.4f}" in found.words


def test_the_arm_that_is_augmented_alike_is_named_once(tmp_path):
    found = measured(tmp_path, {AUGMENTED: 1, HALF: 3}, {AUGMENTED: 1, HALF: 3}).verdict
    assert found.augmented_alike == found.difference
    assert "Against" not in found.words
    assert measured(tmp_path, {REAL: 1, HALF: 3}, {REAL: 1, HALF: 3}).verdict.augmented_alike is None


def test_the_ratio_is_chosen_on_val_and_the_rival_is_the_strongest_on_test(tmp_path):
    on_val = {REAL: 1.0, AUGMENTED: 3.0, HALF: 1.0, WHOLE: 3.0, ALONE: 0.5}
    on_test = {REAL: 3.0, AUGMENTED: 1.0, HALF: 3.0, WHOLE: 1.0, ALONE: 0.5}
    found = measured(tmp_path, on_val, on_test)
    assert found.verdict.chosen_arm == "real_synthetic-1"
    assert found.verdict.compared_with == "real"
    assert found.verdict.verdict == "harms"


def test_test_is_read_once_and_only_for_the_chosen_arms(tmp_path):
    strengths = {REAL: 1.0, AUGMENTED: 1.0, HALF: 1.0, WHOLE: 2.5, ALONE: 1.0}
    found = measured(tmp_path, strengths, strengths)
    assert len((tmp_path / "log").read_text().splitlines()) == 1
    read = {(arm.arm, arm.ratio) for arm in found.arms if arm.test}
    assert read == {("real", None), ("real_augmented", None), ("real_synthetic", 1.0), ("synthetic", None)}
    assert all(len(arm.test_auc_by_seed) == (3 if arm.test else 0) for arm in found.arms)


def test_agreement_is_by_class_and_its_shuffled_control_is_chance():
    intended = np.repeat([0, 1], 2000)
    predicted = intended.copy()
    predicted[:200] = 1
    found = label_agreement(predicted, intended, ("a", "b", "absent"))
    assert found["a"].value == 0.9
    assert found["b"].value == 1.0
    assert set(found) == {"a", "b"}
    control = shuffled_agreement(predicted, intended, ("a", "b"), np.random.default_rng(0))
    assert abs(control["a"].value - 0.45) < 0.05
    assert abs(control["b"].value - 0.55) < 0.05
