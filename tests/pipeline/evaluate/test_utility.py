"""The verdict follows the interval, choices are made on val, and test is read once."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.evaluate.agreement import label_agreement, shuffled_agreement
from pipeline.evaluate.arms import Arm
from pipeline.evaluate.real import Truth
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.utility import TestSplit, conclude, measure_utility
from pipeline.evaluation_report import Estimate

REAL = Arm("real", None, (50, 50), (0, 0), augmented=False)
AUGMENTED = Arm("real_augmented", None, (50, 50), (0, 0))
HALF = Arm("real_synthetic", 0.5, (50, 50), (25, 25))
WHOLE = Arm("real_synthetic", 1.0, (50, 50), (50, 50))
ALONE = Arm("synthetic", None, (0, 0), (50, 50))
SETTINGS = EvaluateSettings(num_resamples=300, seeds=3)


def readings(truth: Truth, strength: float, seed: int) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(3):
        score = 1 / (1 + np.exp(-(rng.normal(size=len(truth.labels)) + strength * (truth.labels - 0.5))))
        found.append(np.stack([1 - score, score], axis=1).astype(np.float32))
    return found


def between(low: float, high: float) -> Estimate:
    return Estimate(value=(low + high) / 2, low=low, high=high, n=9)


def split(n: int) -> Truth:
    return Truth(np.arange(n) % 2, np.arange(n) // 2)


def measured(tmp_path: Path, val_strength: dict[Arm, float], test_strength: dict[Arm, float]):
    val, test = split(200), split(300)
    on_test = {arm: readings(test, s, i) for i, (arm, s) in enumerate(test_strength.items())}
    turnstile = TestSplit(test, on_test, tmp_path / "log")
    on_val = {arm: readings(val, s, 50 + i) for i, (arm, s) in enumerate(val_strength.items())}
    rng = np.random.default_rng(0)
    return measure_utility(on_val, val, turnstile, seeds=(1, 2, 3), settings=SETTINGS, rng=rng), turnstile


def test_the_verdict_follows_the_interval():
    expected = (((0.01, 0.03), "helps"), ((-0.03, -0.01), "harms"), ((-0.01, 0.02), "no measurable effect"))
    for bounds, verdict in expected:
        found = conclude(HALF, {REAL: between(*bounds)})
        assert found.verdict == verdict
        assert verdict in found.words
        assert (found.chosen_arm, found.compared_with) == ("real_synthetic-0.5", "real")
    assert conclude(HALF, {REAL: Estimate(value=0.5)}).verdict == "no measurable effect"


def test_every_real_only_arm_has_to_be_beaten():
    strong, weak = between(-0.004, 0.001), between(0.004, 0.02)
    found = conclude(HALF, {REAL: weak, AUGMENTED: strong})
    assert (found.verdict, found.compared_with) == ("no measurable effect", "real_augmented")
    assert found.difference == strong


def test_a_better_synthetic_arm_helps_and_a_worse_one_harms(tmp_path):
    better = {REAL: 1.0, AUGMENTED: 1.0, HALF: 3.0}
    worse = {REAL: 3.0, AUGMENTED: 3.0, HALF: 1.0}
    equal = {REAL: 2.0, AUGMENTED: 2.0, HALF: 2.0}
    for strengths, verdict in ((better, "helps"), (worse, "harms"), (equal, "no measurable effect")):
        found, _ = measured(tmp_path, strengths, strengths)
        assert found.verdict.verdict == verdict


def test_the_ratio_is_chosen_on_val_and_the_rival_is_the_strongest_on_test(tmp_path):
    on_val = {REAL: 1.0, AUGMENTED: 3.0, HALF: 1.0, WHOLE: 3.0, ALONE: 0.5}
    on_test = {REAL: 3.0, AUGMENTED: 1.0, HALF: 3.0, WHOLE: 1.0, ALONE: 0.5}
    found, _ = measured(tmp_path, on_val, on_test)
    assert found.verdict.chosen_arm == "real_synthetic-1"
    assert found.verdict.compared_with == "real"
    assert found.verdict.verdict == "harms"


def test_test_is_read_once_and_only_for_the_chosen_arms(tmp_path):
    strengths = {REAL: 1.0, AUGMENTED: 1.0, HALF: 1.0, WHOLE: 2.5, ALONE: 1.0}
    found, turnstile = measured(tmp_path, strengths, strengths)
    assert turnstile.reads == 1
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
