"""AUC, low-error hits, permutation p-values and the one-run bound on epsilon."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest
from sklearn.metrics import roc_auc_score

from pipeline.privacy.membership.attack import member_weights
from pipeline.privacy.membership.calibration import Describer, QuantileCalibration
from pipeline.privacy.membership.measures import (
    GUESSED_SHARES,
    auc,
    epsilon_lower_bound,
    hits_at_low_error,
    patient_scores,
    permutation_p,
    refutation_p,
)


@given(st.integers(0, 10_000), st.integers(2, 40), st.integers(2, 40))
@settings(max_examples=50)
def test_auc_is_that_of_scikit_learn_ties_included(seed: int, inside: int, outside: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, inside + outside).astype(np.float64)
    members = rng.permutation(np.arange(inside + outside) < inside)
    assert auc(scores, members) == pytest.approx(roc_auc_score(members, scores))


def test_p_values_are_uniform_where_coins_say_nothing_and_small_where_they_do() -> None:
    rng = np.random.default_rng(1)
    p_values = []
    for _ in range(200):
        scores, members = rng.standard_normal(60), rng.permutation(np.arange(60) < 28)
        p_values.append(permutation_p(scores, members, draws=199, rng=rng))
    below = sum(p <= 0.1 for p in p_values)
    assert binomtest(below, len(p_values), 0.1, alternative="greater").pvalue > 1e-3
    assert binomtest(below, len(p_values), 0.1, alternative="less").pvalue > 1e-3
    members = np.arange(60) < 30
    assert permutation_p(members + rng.normal(0, 0.3, 60), members, draws=999, rng=rng) == 1 / 1000


def test_scans_of_a_patient_count_as_one() -> None:
    scores, inside = patient_scores(
        np.array([1.0, 3.0, 10.0, 4.0]), np.array([7, 7, 2, 5]), np.array([True, True, False, True])
    )
    assert scores.tolist() == [10.0, 4.0, 2.0]
    assert inside.tolist() == [False, True, True]


def test_hits_at_low_error() -> None:
    rng = np.random.default_rng(2)
    outside, inside = rng.standard_normal(20_000), rng.standard_normal(20_000) + 2
    scores, members = np.concatenate([inside, outside]), np.arange(40_000) < 20_000
    hits = hits_at_low_error(scores, members, draws=100, rng=rng)
    expected = 1 - 0.5 * math.erfc(-(2.326 - 2) / math.sqrt(2))
    assert hits.value == pytest.approx(expected, abs=0.04)
    assert hits.low < expected < hits.high
    assert hits.low <= hits.value <= hits.high
    # Too few non-members to allow an error: the mark is their highest score.
    few = hits_at_low_error(
        np.array([3.0, 1.0, 2.0, 0.0]), np.array([1, 1, 0, 0], dtype=bool), draws=100, rng=rng
    )
    assert few.value == 0.5


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0])
def test_the_bound_lies_below_the_epsilon_of_randomised_response(epsilon: float) -> None:
    """Randomised response is exactly epsilon-private: a bound at 95 % exceeds it in at most 5 % of runs."""
    rng = np.random.default_rng(3)
    above, runs = 0, 300
    for _ in range(runs):
        members = rng.random(200) < 0.5
        honest = rng.random(200) < 1 / (1 + math.exp(-epsilon))
        scores = np.where(honest, members, ~members) + rng.uniform(0, 0.5, 200)
        above += epsilon_lower_bound(scores, members).epsilon > epsilon
    assert binomtest(above, runs, 0.05, alternative="greater").pvalue > 1e-3


def test_the_bound_of_a_perfect_attack_is_the_closed_form() -> None:
    members = np.arange(100) < 50
    bound = epsilon_lower_bound(members.astype(np.float64), members)
    # All of 100 guesses right has a chance of q^100 under randomised response with accuracy q.
    accuracy = (0.05 / len(GUESSED_SHARES)) ** (1 / 100)
    assert (bound.guesses, bound.correct) == (100, 100)
    assert bound.epsilon == pytest.approx(math.log(accuracy / (1 - accuracy)), abs=2e-4)


@given(
    st.integers(10, 300),
    st.floats(0, 1),
    st.floats(0, 1),
    st.floats(0, 6),
    st.sampled_from([0.0, 1e-5, 1e-3]),
)
@settings(max_examples=100)
def test_a_weaker_guarantee_is_refuted_by_less(
    total: int, guessed: float, right: float, epsilon: float, delta: float
) -> None:
    guesses = max(1, round(guessed * total))
    correct = round(right * guesses)
    p_value = refutation_p(total, guesses, correct, epsilon, delta)
    assert 0 <= p_value <= 1
    assert refutation_p(total, guesses, correct, epsilon + 0.5, delta) >= p_value - 1e-12
    assert refutation_p(total, guesses, correct, epsilon, delta + 1e-3) >= p_value - 1e-12
    if correct < guesses:
        assert refutation_p(total, guesses, correct + 1, epsilon, 0.0) <= refutation_p(
            total, guesses, correct, epsilon, 0.0
        )


def test_delta_costs_what_a_mechanism_that_gives_all_away_with_probability_delta_does() -> None:
    """With probability delta a patient is named outright, else a coin is thrown: the bound on p must hold."""
    rng = np.random.default_rng(4)
    total, delta, runs = 100, 0.02, 4000
    given_away = rng.random((runs, total)) < delta
    right = (given_away | (rng.random((runs, total)) < 0.5)).sum(axis=1)
    for correct in (55, 60, 65):
        share = float((right >= correct).mean())
        assert share <= refutation_p(total, total, correct, 0.0, delta) + 3 * math.sqrt(share / runs)


def test_weights_are_never_negative_and_equal_where_nothing_is_learnt() -> None:
    rng = np.random.default_rng(5)
    members = np.arange(400) < 200
    nothing = rng.standard_normal((400, 4))
    assert member_weights(nothing, members) == pytest.approx(np.full(4, 0.25), abs=0.15)
    telling = nothing.copy()
    telling[:, 1] += 3 * members
    telling[:, 2] -= 3 * members
    weights = member_weights(telling, members)
    assert weights.argmax() == 1 and weights[1] > 2 * weights[0]
    assert weights[2] == 0 == weights.min()


def test_calibration_takes_out_what_makes_an_image_easy() -> None:
    """Scores that hang on the image's contrast alone tell nothing once calibrated; what is left does."""
    rng = np.random.default_rng(6)
    contrast = rng.uniform(0.1, 0.5, 900)
    images = (contrast[:, None, None, None] * rng.standard_normal((900, 1, 16, 16))).astype(np.float32)
    labels = rng.integers(0, 2, 900)
    members = np.arange(900) % 3 == 0
    scores = -8 * np.log(contrast) + 0.5 * members + 0.3 * rng.standard_normal(900)
    raw = auc(scores[300:], members[300:])
    fitted = np.flatnonzero(~members)[:200]
    describe = Describer(images[fitted], num_classes=2)
    calibrate = QuantileCalibration(describe(images[fitted], labels[fitted]), scores[fitted])
    rest = np.arange(300, 900)
    calibrated = calibrate(describe(images[rest], labels[rest]), scores[rest])
    assert raw < 0.6 < 0.8 < auc(calibrated, members[rest])
    assert abs(float(np.median(calibrated[~members[rest]]))) < 0.25
