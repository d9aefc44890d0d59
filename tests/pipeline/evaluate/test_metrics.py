"""Metrics equal their reference implementations, weighted or repeated; intervals hold what they promise."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import balanced_accuracy_score, brier_score_loss, roc_auc_score, roc_curve

from pipeline.evaluate import intervals
from pipeline.evaluate.intervals import binomial, draw_resamples, measure
from pipeline.evaluate.metrics import auc, balanced_accuracy, brier, ece, sensitivity_at


def cases(seed: int, n: int = 80, classes: int = 2, levels: int | None = None):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, n - classes)])
    logits = rng.normal(size=(n, classes)) + 1.2 * np.eye(classes)[labels]
    if levels:
        logits = np.rint(logits * levels) / levels
    p = np.exp(logits)
    return p / p.sum(1, keepdims=True), labels


@settings(max_examples=40)
@given(seed=st.integers(0, 10**6), levels=st.sampled_from([None, 1, 2]))
def test_auc_equals_sklearn_with_and_without_ties(seed, levels):
    p, y = cases(seed, levels=levels)
    assert auc(p, y, np.ones((1, 80)))[0] == pytest.approx(roc_auc_score(y, p[:, 1]))


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_auc_of_several_classes_is_the_mean_of_one_against_rest(seed):
    p, y = cases(seed, classes=4)
    expected = roc_auc_score(y, p, multi_class="ovr", average="macro")
    assert auc(p, y, np.ones((1, 80)))[0] == pytest.approx(expected)


@settings(max_examples=20)
@given(seed=st.integers(0, 10**6))
def test_a_weight_counts_as_so_many_copies(seed):
    p, y = cases(seed, levels=2)
    times = np.random.default_rng(seed).integers(0, 4, 80)
    times[:2] = 1
    copies = np.repeat(np.arange(80), times)
    for metric in (auc, balanced_accuracy, brier, ece, sensitivity_at(0.8)):
        weighted = metric(p, y, times[None].astype(float))[0]
        assert weighted == pytest.approx(metric(p[copies], y[copies], np.ones((1, len(copies))))[0])


def test_the_other_metrics_equal_their_references():
    p, y = cases(3, n=200)
    ones = np.ones((1, 200))
    assert balanced_accuracy(p, y, ones)[0] == pytest.approx(balanced_accuracy_score(y, p.argmax(1)))
    assert brier(p, y, ones)[0] == pytest.approx(brier_score_loss(y, p[:, 1]))
    each = []
    for label in range(2):
        false_rate, true_rate, _ = roc_curve(y == label, p[:, label], drop_intermediate=False)
        each.append(true_rate[false_rate <= 0.1].max())
    assert sensitivity_at(0.9)(p, y, ones)[0] == pytest.approx(np.mean(each))
    assert each[0] != each[1]


@pytest.mark.parametrize("classes", [2, 3])
def test_no_metric_depends_on_how_the_classes_are_numbered(classes):
    p, y = cases(3, n=200, classes=classes)
    ones, turned = np.ones((1, 200)), classes - 1 - y
    for metric in (auc, balanced_accuracy, brier, ece, sensitivity_at(0.9)):
        assert metric(p[:, ::-1], turned, ones)[0] == pytest.approx(metric(p, y, ones)[0])


def test_calibration_error_of_a_calibrated_and_of_an_overconfident_classifier():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.5, 1.0, 40_000)
    y = (rng.uniform(size=40_000) > confidence).astype(int)
    p = np.stack([confidence, 1 - confidence], axis=1)
    assert ece(p, y, np.ones((1, 40_000)))[0] < 0.02
    sure = np.tile([1.0, 0.0], (40_000, 1))
    assert ece(sure, y, np.ones((1, 40_000)))[0] == pytest.approx((y == 1).mean())


def test_a_draw_without_a_class_gives_no_number():
    p, y = cases(0)
    only_zero = (y == 0).astype(float)[None]
    for metric in (auc, balanced_accuracy, sensitivity_at(0.9)):
        assert np.isnan(metric(p, y, only_zero)[0])


def test_draws_take_whole_patients_and_weigh_seeds_to_one():
    patients = np.repeat([7, 8, 9, 30], [1, 2, 3, 4])
    drawn = draw_resamples(patients, 3, 500, np.random.default_rng(0))
    for patient in (7, 8, 9, 30):
        own = drawn.cases[:, patients == patient]
        assert (own == own[:, :1]).all()
    first_of_patient = [0, 1, 3, 6]
    assert (drawn.cases[:, first_of_patient].sum(axis=1) == 4).all()
    assert np.allclose(drawn.seeds.sum(axis=1), 1.0)


def test_blocks_of_draws_change_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    patients, (p, y) = np.arange(120) // 2, cases(3, n=120)
    whole = draw_resamples(patients, 1, 150, np.random.default_rng(5))
    expected = measure(auc, [p], y, whole)
    monkeypatch.setattr(intervals, "BLOCK_VALUES", 7 * 120)
    parts = draw_resamples(patients, 1, 150, np.random.default_rng(5))
    np.testing.assert_array_equal(whole.cases, parts.cases)
    np.testing.assert_array_equal(measure(auc, [p], y, parts).draws, expected.draws)


def test_many_cases_need_the_memory_of_their_counts() -> None:
    rng, num_cases, num_draws = np.random.default_rng(0), 40_000, 200
    p, y = rng.random((num_cases, 2)), rng.integers(0, 2, num_cases)
    tracemalloc.start()
    try:
        measure(auc, [p], y, draw_resamples(np.arange(num_cases), 1, num_draws, rng))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Two bytes a count, and one block of weights with what the metric makes of it.
    assert peak < 2 * num_cases * num_draws + 24 * 8 * intervals.BLOCK_VALUES / 2


def test_the_bootstrap_interval_covers_the_true_auc():
    from scipy.stats import norm

    truth, covered = norm.cdf(1.0 / np.sqrt(2)), 0
    for trial in range(120):
        rng = np.random.default_rng(trial)
        y = rng.integers(0, 2, 120)
        score = norm.cdf(rng.normal(size=120) + y)
        p = np.stack([1 - score, score], axis=1)
        estimate = measure(auc, [p], y, draw_resamples(np.arange(120), 1, 300, rng)).estimate
        covered += estimate.low <= truth <= estimate.high
    assert covered >= 0.88 * 120


def test_scans_of_one_patient_widen_the_interval():
    p, y = cases(1, n=60)
    p6, y6 = np.repeat(p, 6, axis=0), np.repeat(y, 6)
    rng = np.random.default_rng(0)
    naive = measure(auc, [p6], y6, draw_resamples(np.arange(360), 1, 500, rng)).estimate
    honest = measure(auc, [p6], y6, draw_resamples(np.repeat(np.arange(60), 6), 1, 500, rng)).estimate
    assert honest.high - honest.low > 1.8 * (naive.high - naive.low)


def test_a_paired_difference_is_surer_than_the_two_values():
    p, y = cases(2, n=150)
    better = p.copy()
    better[:, 1] = np.clip(p[:, 1] + 0.02 * (2 * y - 1), 0, 1)
    better[:, 0] = 1 - better[:, 1]
    drawn = draw_resamples(np.arange(150), 1, 500, np.random.default_rng(0))
    a, b = measure(auc, [better], y, drawn), measure(auc, [p], y, drawn)
    difference = a.minus(b)
    assert difference.low > 0
    joint = a.minus(b, comparisons=3)
    # Only the upper ends have to hold together.
    assert joint.low == difference.low < difference.high < joint.high
    assert difference.high - difference.low < 0.5 * (b.estimate.high - b.estimate.low)


def test_spread_between_seeds_enters_the_interval():
    p, y = cases(2, n=300)
    q, _ = cases(2, n=300)
    q = 0.6 * q + 0.4 * np.random.default_rng(1).dirichlet([1, 1], 300)
    drawn = draw_resamples(np.arange(300), 2, 800, np.random.default_rng(0))
    mixed, one = measure(auc, [p, q], y, drawn), measure(auc, [p, p], y, drawn)
    assert np.nanstd(mixed.draws) > np.nanstd(one.draws)
    assert mixed.by_seed[0] > mixed.by_seed[1]


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(0, 10, 0.0, 0.3085), (10, 10, 0.6915, 1.0), (5, 10, 0.1871, 0.8129)],
)
def test_binomial_interval_is_the_exact_one(successes, trials, low, high):
    found = binomial(successes, trials)
    assert (found.low, found.high) == (pytest.approx(low, abs=1e-4), pytest.approx(high, abs=1e-4))


def test_binomial_refuses_impossible_counts():
    with pytest.raises(ValueError, match="successes"):
        binomial(3, 2)
