"""KID and FID against closed forms, and their behaviour on equal and unequal distributions."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.evaluate.fidelity.distances import fid, kid, mean_ratio


def test_kid_equals_the_double_sum_of_its_definition():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(5, 3)) + 0.5

    def k(a, b):
        return (a @ b / 3 + 1) ** 3

    expected = (
        np.mean([k(x[i], x[j]) for i in range(7) for j in range(7) if i != j])
        + np.mean([k(y[i], y[j]) for i in range(5) for j in range(5) if i != j])
        - 2 * np.mean([k(a, b) for a in x for b in y])
    )
    assert kid(x, y).value == pytest.approx(expected)


def test_kid_of_one_distribution_is_zero_on_average_and_mostly_within_its_interval():
    rng = np.random.default_rng(1)
    found = [kid(rng.normal(size=(40, 8)), rng.normal(size=(30, 8))) for _ in range(150)]
    values = np.array([f.value for f in found])
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))
    assert np.mean([f.low <= 0 <= f.high for f in found]) >= 0.9


def test_the_interval_covers_a_true_distance():
    d, mu = 4, 1.5
    rng = np.random.default_rng(2)
    # The three kernel means over a million independent pairs each: free of the code under test.
    pairs = rng.normal(size=(4, 1_000_000, d))
    kernel = [
        np.mean(((u * v).sum(axis=1) / d + 1) ** 3)
        for u, v in ((pairs[0], pairs[1]), (pairs[2] + mu, pairs[3] + mu), (pairs[0], pairs[2] + mu))
    ]
    truth = kernel[0] + kernel[1] - 2 * kernel[2]
    found = [kid(rng.normal(size=(60, d)), rng.normal(size=(60, d)) + mu) for _ in range(100)]
    assert np.mean([f.low <= truth <= f.high for f in found]) >= 0.87


def test_rows_of_one_patient_widen_the_interval():
    rng = np.random.default_rng(3)
    patients = np.repeat(np.arange(15), 6)
    x = (rng.normal(size=(15, 5))[patients] + 0.1 * rng.normal(size=(90, 5))) + 0.8
    y = rng.normal(size=(80, 5))
    by_row, by_patient = kid(x, y), kid(x, y, x_groups=patients)
    assert by_row.value == by_patient.value
    assert by_patient.high - by_patient.low > 1.3 * (by_row.high - by_row.low)


def test_leaving_a_group_out_equals_computing_without_it():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=(9, 3)), rng.normal(size=(8, 3))
    groups = np.array([0, 0, 1, 1, 1, 2, 3, 3, 4])
    dropped_x = np.array([kid(x[groups != g], y).value for g in range(5)])
    dropped_y = np.array([kid(x, np.delete(y, i, axis=0)).value for i in range(8)])
    variance = 4 / 5 * np.square(dropped_x - dropped_x.mean()).sum()
    variance += 7 / 8 * np.square(dropped_y - dropped_y.mean()).sum()
    found = kid(x, y, x_groups=groups)
    assert found.high - found.value == pytest.approx(1.959964 * np.sqrt(variance), rel=1e-5)


def test_fid_of_gaussians_is_near_its_closed_form():
    rng = np.random.default_rng(5)
    scale_a, scale_b = np.array([1.0, 2.0, 0.5]), np.array([1.5, 1.0, 0.5])
    x = rng.normal(size=(60_000, 3)) * scale_a
    y = rng.normal(size=(60_000, 3)) * scale_b + 0.7
    expected = 3 * 0.7**2 + np.square(scale_a - scale_b).sum()
    assert fid(x, y) == pytest.approx(expected, rel=0.03)


def test_fid_agrees_with_the_matrix_root_for_correlated_features():
    from scipy.linalg import sqrtm

    rng = np.random.default_rng(6)
    x = rng.normal(size=(300, 6)) @ rng.normal(size=(6, 6))
    y = rng.normal(size=(200, 6)) @ rng.normal(size=(6, 6)) + 1
    a, b = np.cov(x, rowvar=False), np.cov(y, rowvar=False)
    shift = x.mean(0) - y.mean(0)
    expected = shift @ shift + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert fid(x, y) == pytest.approx(expected, rel=1e-8)
    assert fid(x, x) == pytest.approx(0.0, abs=1e-8 * np.trace(a))


@pytest.mark.parametrize("measure", [kid, fid])
def test_samples_that_cannot_be_compared_are_refused(measure):
    with pytest.raises(ValueError, match="at least 2"):
        measure(np.zeros((1, 3)), np.zeros((5, 3)))
    with pytest.raises(ValueError, match="x and y"):
        measure(np.zeros((5, 3)), np.zeros((5, 4)))


def test_a_ratio_of_means_has_the_interval_of_its_patients() -> None:
    rng = np.random.default_rng(11)
    covered, wide = [], []
    for _ in range(300):
        own = rng.lognormal(0.0, 0.3, size=25)
        patients = np.repeat(np.arange(25), 4)
        x, y = own[patients] * rng.lognormal(0.0, 0.2, size=100), rng.lognormal(0.0, 0.3, size=60)
        true = np.exp(0.02)
        found = mean_ratio(x, y, x_groups=patients, y_groups=np.arange(60))
        assert found is not None and found.low is not None and found.high is not None
        covered.append(found.low < true < found.high)
        alone = mean_ratio(x, y, x_groups=np.arange(100), y_groups=np.arange(60))
        assert alone is not None
        wide.append((found.high - found.low) / ((alone.high or 0) - (alone.low or 0)))
    assert 0.9 < np.mean(covered) < 0.985
    assert np.mean(wide) > 1.2


def test_a_ratio_of_means_scales_and_has_no_interval_without_groups() -> None:
    x, y, numbers = np.array([2.0, 4.0]), np.array([1.0, 3.0]), np.arange(2)
    found = mean_ratio(3 * x, y, x_groups=numbers, y_groups=numbers)
    assert found is not None and found.low is not None and found.value == pytest.approx(4.5)
    for own, groups in ((y, np.zeros(2, dtype=int)), (np.array([0.0, 3.0]), numbers)):
        found = mean_ratio(x, own, x_groups=numbers, y_groups=groups)
        assert found is not None and found.low is None
    assert mean_ratio(x, np.zeros(2), x_groups=numbers, y_groups=numbers) is None
