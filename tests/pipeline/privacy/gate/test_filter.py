"""The rejection rules share one budget, on images the thresholds never saw."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.privacy.gate.filter import (
    JOINT,
    JOINT_SHARE,
    calibrate,
    joint_share,
    rule_statistics,
)
from pipeline.privacy.search.neighbours import Neighbours
from pipeline.privacy.search.views import VIEWS, Found


def real(count: int, rng: np.random.Generator) -> Found:
    """Return what is found about unseen real images: correlated between rules, as they are in truth."""
    found = {}
    level = rng.normal(-1.0, 0.3, count)
    for view in VIEWS:
        train, holdout, rest = (np.exp(level + rng.normal(0, 0.1, count)) for _ in range(3))
        side = rng.random(count) < 0.85
        codes = rng.integers(0, 1_000, count)
        found[view] = Neighbours(train, codes, holdout, rest, train[:, None], level, side, codes)
    return Found(found, rng.normal(-0.1, 0.1, count), rng.normal(0.0, 1.0, (count, 2)))


def test_all_rules_together_cost_about_their_budget_on_fresh_images() -> None:
    rng = np.random.default_rng(0)
    rates = []
    for _ in range(60):
        calibration = calibrate(real(300, rng), 0.04, np.zeros(300, dtype=bool))
        rates.append(calibration.rejects(real(1_000, rng))[0].mean())
    assert 0.025 < np.mean(rates) <= 0.05


def test_with_few_tuning_images_only_what_is_beyond_all_of_them_is_rejected() -> None:
    rng = np.random.default_rng(1)
    rates = []
    for _ in range(30):
        tuning = real(20, rng)
        calibration = calibrate(tuning, 0.04, np.zeros(20, dtype=bool))
        assert not calibration.rejects(tuning)[0].any()
        rates.append(calibration.rejects(real(500, rng))[0].mean())
    assert np.mean(rates) < 0.12


def test_hash_matches_among_tuning_images_spend_the_budget() -> None:
    tuning = real(300, np.random.default_rng(2))
    free = calibrate(tuning, 0.05, np.zeros(300, dtype=bool))
    spent = calibrate(tuning, 0.05, np.arange(300) < 10)
    assert spent.score < free.score


def test_each_rule_reports_the_statistic_at_which_it_rejects() -> None:
    rng = np.random.default_rng(3)
    calibration, fresh = calibrate(real(300, rng), 0.05, np.zeros(300, dtype=bool)), real(500, rng)
    by_rule = np.zeros(500, dtype=bool)
    for rule in calibration.rules:
        values = calibration.statistics(fresh)[rule.view, rule.name]
        by_rule |= values < rule.threshold(calibration.score)
    assert (by_rule == calibration.rejects(fresh)[0]).all()


def test_the_joint_rule_takes_more_of_the_budget_the_more_tuning_images_there_are() -> None:
    def rejected_first_by_joint(count: int) -> float:
        rng = np.random.default_rng(4)
        shares = []
        for _ in range(20):
            calibration = calibrate(real(count, rng), 0.05, np.zeros(count, dtype=bool))
            rejected, strongest = calibration.rejects(real(2_000, rng))
            names = np.array([rule.name for rule in calibration.rules])[strongest]
            shares.append((names[rejected] == JOINT).mean())
        return float(np.mean(shares))

    assert [joint_share(count) for count in (0, 10_000)] == [1.0, JOINT_SHARE]
    assert rejected_first_by_joint(600) > 1.2 * rejected_first_by_joint(60)


@settings(max_examples=40)
@given(st.floats(0.01, 1.5), st.floats(0.01, 1.5))
def test_the_ratio_is_antisymmetric_in_train_and_holdout(train: float, holdout: float) -> None:
    def ratio(near: float, far: float) -> float:
        one, two = np.array([near]), np.array([far])
        code, side = np.array([0]), np.array([True])
        found = Neighbours(one, code, two, two, one[:, None], one, side, code)
        return float(rule_statistics(found)["ratio"][0])

    assert ratio(train, holdout) == pytest.approx(-ratio(holdout, train))
    assert ratio(train, train) == 0
