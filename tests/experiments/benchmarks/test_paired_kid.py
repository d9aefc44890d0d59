"""The paired difference of two KIDs and its standard error; FID's interval."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from pipeline.evaluate.fidelity.distances import Z95, kid
from pipeline.evaluate.fidelity.measure import FeatureSet
from tests.experiments.benchmarks.fidelity_intervals import fid_estimate
from tests.experiments.benchmarks.paired_kid import kernel_sums, paired_difference

Array = npt.NDArray[np.float64]


def difference(x: Array, reference: Array, y: Array, groups: npt.NDArray[np.int64]) -> tuple[float, float]:
    return paired_difference(kernel_sums(x, y), kernel_sums(reference, y), groups)


def test_the_difference_is_that_of_the_two_kids() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(0.2, 1.0, (40, 6)), rng.normal(0.0, 1.0, (30, 6))
    reference = x + rng.normal(0.0, 0.1, x.shape)
    value, _ = difference(x, reference, y, np.arange(30))
    assert value == pytest.approx(kid(x, y).value - kid(reference, y).value, rel=1e-9)


def test_the_error_is_the_jackknife_over_pairs_and_patients() -> None:
    rng = np.random.default_rng(1)
    x, y = rng.normal(0.2, 1.0, (15, 4)), rng.normal(0.0, 1.0, (12, 4))
    reference, groups = x + rng.normal(0.0, 0.2, x.shape), np.arange(12) // 2

    def plain(kept_x: npt.NDArray[np.bool_], kept_y: npt.NDArray[np.bool_]) -> float:
        return kid(x[kept_x], y[kept_y]).value - kid(reference[kept_x], y[kept_y]).value

    everyone_x, everyone_y = np.ones(15, dtype=bool), np.ones(12, dtype=bool)
    pairs = np.array([plain(np.arange(15) != i, everyone_y) for i in range(15)])
    patients = np.array([plain(everyone_x, groups != g) for g in range(6)])
    expected = sum((len(v) - 1) / len(v) * np.square(v - v.mean()).sum() for v in (pairs, patients))
    assert difference(x, reference, y, groups)[1] == pytest.approx(np.sqrt(expected), rel=1e-9)


def test_shared_noise_leaves_a_far_smaller_error_than_either_kid_has() -> None:
    rng = np.random.default_rng(2)
    x, y = rng.normal(0.1, 1.0, (300, 8)), rng.normal(0.0, 1.0, (200, 8))
    reference = x + rng.normal(0.0, 0.01, x.shape)
    alone = kid(x, y)
    assert alone.high is not None
    assert difference(x, reference, y, np.arange(200))[1] < 0.05 * (alone.high - alone.value) / Z95


def test_blocks_of_rows_give_the_sums_of_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(25, 5)), rng.normal(size=(11, 5))
    whole = kernel_sums(x, y)
    monkeypatch.setattr("tests.experiments.benchmarks.paired_kid._BLOCK_ROWS", 7)
    parts = kernel_sums(x, y)
    for name in ("within", "to_real", "from_real"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12)


def test_samples_of_different_length_are_refused() -> None:
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(10, 3)), rng.normal(size=(8, 3))
    with pytest.raises(ValueError, match="10 and 9"):
        difference(x, x[:9], y, np.arange(8))


def test_the_interval_of_fid_is_as_wide_as_fid_varies_between_samples() -> None:
    def draw(seed: int) -> tuple[FeatureSet, FeatureSet]:
        rng = np.random.default_rng(seed)
        one, other = rng.normal(0.5, 1.0, (400, 4)), rng.normal(0.0, 1.0, (400, 4))
        zeros, numbers = np.zeros(400, dtype=np.int64), np.arange(400)
        power = np.ones((400, 1))
        return FeatureSet(one, zeros, numbers, power), FeatureSet(other, zeros, numbers, power)

    estimates = [fid_estimate(*draw(seed), np.random.default_rng(seed)) for seed in range(40)]
    spread = np.std([estimate.value for estimate in estimates])
    half = np.mean([(estimate.high or 0.0) - estimate.value for estimate in estimates]) / Z95
    assert half == pytest.approx(spread, rel=0.35)
