"""What a test could notice and how many it takes are each other's inverse, and hold in simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm

from pipeline.wording.power import (
    clopper_pearson,
    least_p,
    noticeable_auc,
    noticeable_excess,
    patients_for_auc,
    smallest,
    trials_below,
)


@pytest.mark.parametrize("answer", [1, 2, 3, 7, 64, 1000])
def test_the_smallest_number_is_found_and_none_is_said_where_there_is_none(answer: int) -> None:
    assert smallest(lambda number: number >= answer) == answer
    assert smallest(lambda number: number >= answer, most=answer) == answer
    assert smallest(lambda _: False, most=1000) is None


def test_so_many_patients_show_an_auc_with_the_stated_chance() -> None:
    """Normal scores shifted to an AUC of .7: about 80 % of simulated attacks are below the level."""
    count = patients_for_auc(0.7, significance=0.01 / 3)
    assert count is not None and noticeable_auc(count, count, significance=0.01 / 3) <= 0.7
    assert noticeable_auc(count - 1, count - 1, significance=0.01 / 3) > 0.7
    rng, shift = np.random.default_rng(0), math.sqrt(2) * norm.ppf(0.7)
    told = [
        mannwhitneyu(rng.normal(shift, 1, count), rng.normal(0, 1, count), alternative="greater").pvalue
        < 0.01 / 3
        for _ in range(500)
    ]
    assert 0.75 < np.mean(told) < 0.9


def test_few_patients_show_hardly_anything_and_very_few_nothing() -> None:
    assert noticeable_auc(7, 6, significance=0.01 / 3) == 1.0
    assert least_p(7, 6) == pytest.approx(1 / 1716)
    assert least_p(4, 4) > 0.01
    assert noticeable_auc(0, 6, significance=0.01) == 1.0


def test_a_share_below_a_bound_is_shown_by_enough_trials() -> None:
    # None of 72 is the first to have an exact interval below 5 %.
    assert trials_below(0.0, 0.05) == 72
    assert trials_below(0.05, 0.05) is None and trials_below(0.06, 0.05) is None
    nearer = trials_below(0.04, 0.05)
    assert nearer is not None and nearer > 1000


def test_an_excess_that_is_noticeable_is_noticed_with_the_stated_chance() -> None:
    rng = np.random.default_rng(1)
    estimates = rng.normal(noticeable_excess(1.96), 1.0, 20_000)
    assert np.mean(estimates - 1.96 > 0) == pytest.approx(0.8, abs=0.01)


def test_the_interval_holds_the_share_and_reaches_the_ends() -> None:
    assert clopper_pearson(0, 50)[0] == 0 and clopper_pearson(50, 50)[1] == 1
    low, high = clopper_pearson(5, 100)
    assert low == pytest.approx(0.0164, abs=1e-3) and high == pytest.approx(0.1128, abs=1e-3)
