"""DeLong's test against an independent package, against its definition, and its coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.evaluate.delong import delong

CASES = {
    "continuous": (0, 40, 60, 1.0, 0.6, None),
    "ties": (1, 50, 50, 1.0, 0.5, 0),
    "imbalance": (2, 9, 300, 1.5, 0.8, 1),
    "alike": (3, 80, 80, 1.0, 1.0, None),
    "large": (4, 700, 1300, 0.9, 0.8, 2),
}
"""Name -> seed, positive scans, negative scans, separation of each classifier, decimals of the scores."""

MLSTATKIT = {
    "continuous": (0.15083333333333326, 0.0580621737208537, 0.009382585979627309),
    "ties": (0.09519999999999995, 0.05308251566559137, 0.07290352019174792),
    "imbalance": (0.03907407407407404, 0.08089948095382814, 0.6290990295144974),
    "alike": (0.00015625000000007994, 0.040257888199733166, 0.9969032367270275),
    "large": (0.018538461538461615, 0.012243421505243943, 0.12998604208228537),
}
"""Name -> difference, standard error and p-value of `Delong_test` of MLstatkit 0.1.91."""


def scores(
    seed: int, num_positive: int, num_negative: int, first: float, second: float, decimals: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return labels and the scores of two classifiers that share half of their noise."""
    rng = np.random.default_rng(seed)
    positive = np.arange(num_positive + num_negative) < num_positive
    shared = rng.normal(size=len(positive))
    found = [
        gap * positive + math.sqrt(0.5) * (shared + rng.normal(size=len(positive))) for gap in (first, second)
    ]
    if decimals is not None:
        found = [np.round(part, decimals) for part in found]
    return positive, found[0], found[1]


@pytest.mark.parametrize("name", CASES)
def test_an_independent_package_finds_the_same(name: str) -> None:
    found = delong(*scores(*CASES[name]))
    value, error, p_value = MLSTATKIT[name]
    assert found.difference.value == pytest.approx(value, abs=1e-12)
    assert found.standard_error == pytest.approx(error, rel=1e-10)
    assert found.p_value == pytest.approx(p_value, rel=1e-9)
    assert found.difference.low == pytest.approx(value - 1.959963984540054 * error)
    assert found.difference.high == pytest.approx(value + 1.959963984540054 * error)
    assert found.difference.n == CASES[name][1] + CASES[name][2]


def by_definition(positive: np.ndarray, first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    """Return difference and variance from all pairs of scans, as in the paper of 1988."""
    kernels = []
    for scored in (first, second):
        above, below = scored[positive][:, None], scored[~positive][None]
        kernels.append((above > below) + 0.5 * (above == below))
    areas = [float(kernel.mean()) for kernel in kernels]
    variance = 0.0
    for axis in (1, 0):
        s = np.cov([kernel.mean(axis=axis) for kernel in kernels])
        variance += (s[0, 0] + s[1, 1] - 2 * s[0, 1]) / kernels[0].shape[1 - axis]
    return areas[0] - areas[1], variance


few_values = st.integers(0, 6).map(float)


@given(st.data(), st.integers(2, 12), st.integers(2, 12))
def test_ranks_give_what_all_pairs_give(data: st.DataObject, num_positive: int, num_negative: int) -> None:
    count = num_positive + num_negative
    positive = np.array(data.draw(st.permutations([True] * num_positive + [False] * num_negative)))
    first, second = (
        np.array(data.draw(st.lists(few_values, min_size=count, max_size=count))) for _ in range(2)
    )
    found = delong(positive, first, second)
    value, variance = by_definition(positive, first, second)
    assert found.difference.value == pytest.approx(value, abs=1e-12)
    assert found.standard_error**2 == pytest.approx(variance, abs=1e-12)
    swapped = delong(positive, second, first)
    assert swapped.difference.value == pytest.approx(-value, abs=1e-12)
    # Only ranks count.
    assert delong(positive, np.exp(first), second - 3.0) == found


def test_without_a_standard_error_there_is_neither_interval_nor_p_value() -> None:
    positive, first, _ = scores(*CASES["ties"])
    alike = delong(positive, first, 2.0 * first)
    assert (alike.difference.value, alike.standard_error, alike.p_value) == (0.0, 0.0, None)
    assert alike.difference.low is None
    apart = delong(positive, positive * 1.0, ~positive * 1.0)
    assert (apart.difference.value, apart.p_value) == (1.0, None)


def test_a_class_with_one_scan_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 scans"):
        delong(np.array([True, False, False]), np.arange(3.0), np.arange(3.0))


def test_the_interval_covers_the_true_difference_in_95_of_100() -> None:
    first, second = 1.2, 0.7
    # Both scores have unit variance, so that the AUC is the normal distribution at gap / sqrt(2).
    truth = 0.5 * (math.erf(first / 2) - math.erf(second / 2))
    covered = 0
    for seed in range(1000):
        found = delong(*scores(seed, 50, 80, first, second, None)).difference
        assert found.low is not None and found.high is not None
        covered += found.low <= truth <= found.high
    assert 0.93 <= covered / 1000 <= 0.97
