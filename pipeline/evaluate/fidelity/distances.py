"""Distances between two sets of features: unbiased KID with a jackknife interval, and FID."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Floats
from pipeline.artifacts.evaluation_report import Estimate

Features = npt.NDArray[np.floating]
"""(n, d), one row per image."""

Z95 = 1.959963984540054


def kid(
    x: Features,
    y: Features,
    *,
    x_groups: npt.NDArray[np.integer] | None = None,
    y_groups: npt.NDArray[np.integer] | None = None,
) -> Estimate:
    """Return the kernel inception distance of two samples with a 95 % interval.

    This is the full-sample unbiased estimate of the squared maximum mean discrepancy (Gretton et al. 2012,
    eq. 3) with the cubic kernel (x.y / d + 1)^3 of Binkowski et al. 2018 (arXiv 1801.01401). It may be
    negative. The interval is a two-sample jackknife that leaves out one group (patient) at a time, with
    normal quantiles.

    Args:
        x: (n, d) features.
        y: (m, d) features of the same encoder.
        x_groups: (n,) patient of each row; None makes each row a group of its own.
        y_groups: (m,), as `x_groups`.

    Raises:
        ValueError: fewer than 2 rows, or different d.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"x and y must be (n, d), (m, d) with n and m at least 2, got {x.shape}, {y.shape}")
    n, m = len(x), len(y)
    within_x = _off_diagonal(_kernel(x, x))
    within_y = _off_diagonal(_kernel(y, y))
    between = _kernel(x, y)
    sum_x, sum_y, sum_xy = within_x.sum(), within_y.sum(), between.sum()
    value = sum_x / (n * (n - 1)) + sum_y / (m * (m - 1)) - 2.0 * sum_xy / (n * m)

    x_groups = np.arange(n) if x_groups is None else x_groups
    y_groups = np.arange(m) if y_groups is None else y_groups
    left_x, kept_x, cross_x = _without_each(within_x, between, x_groups)
    left_y, kept_y, cross_y = _without_each(within_y, between.T, y_groups)
    if left_x.min() < 2 or left_y.min() < 2:
        return Estimate(value=float(value), n=n)
    drop_x = kept_x / (left_x * (left_x - 1)) + sum_y / (m * (m - 1)) - 2.0 * cross_x / (left_x * m)
    drop_y = sum_x / (n * (n - 1)) + kept_y / (left_y * (left_y - 1)) - 2.0 * cross_y / (n * left_y)
    half = Z95 * float(np.sqrt(_jackknife_variance(drop_x) + _jackknife_variance(drop_y)))
    return Estimate(value=float(value), low=float(value) - half, high=float(value) + half, n=n)


def fid(x: Features, y: Features) -> float:
    """Return the Frechet distance of Gaussians fitted to two samples (Heusel et al. 2017, arXiv 1706.08500).

    Computed in float64. The trace of the matrix root comes from the eigenvalues of A^(1/2) B A^(1/2), which
    are real and not negative. The distance is biased upwards for small samples, so compare it only at equal
    sample sizes.

    Raises:
        ValueError: fewer than 2 rows, or different d.
    """
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1] or min(len(x), len(y)) < 2:
        raise ValueError(f"x and y must be (n, d), (m, d) with n and m at least 2, got {x.shape}, {y.shape}")
    x, y = x.astype(np.float64), y.astype(np.float64)
    shift = x.mean(axis=0) - y.mean(axis=0)
    a, b = np.atleast_2d(np.cov(x, rowvar=False)), np.atleast_2d(np.cov(y, rowvar=False))
    values, vectors = np.linalg.eigh(a)
    root = (vectors * np.sqrt(values.clip(min=0.0))) @ vectors.T
    cross = np.linalg.eigvalsh(root @ b @ root).clip(min=0.0)
    return float(shift @ shift + np.trace(a) + np.trace(b) - 2.0 * np.sqrt(cross).sum())


def mean_ratio(
    x: Features, y: Features, *, x_groups: npt.NDArray[np.integer], y_groups: npt.NDArray[np.integer]
) -> Estimate | None:
    """Return the ratio of the means of two samples with a 95 % interval; None if a mean is not positive.

    The interval is a two-sample jackknife of the logarithm, which leaves out one group (patient) at a time,
    with normal quantiles. There is none if a sample is of one group, or if one group has all that is not 0.

    Args:
        x: (n,) values, not negative.
        y: (m,) values, not negative.
        x_groups: (n,) patient of each value.
        y_groups: (m,), as `x_groups`.
    """
    samples = ((x.astype(np.float64), x_groups), (y.astype(np.float64), y_groups))
    if min(values.mean() for values, _ in samples) <= 0.0:
        return None
    value = float(samples[0][0].mean() / samples[1][0].mean())
    variance = 0.0
    for values, groups in samples:
        codes = np.unique(groups, return_inverse=True)[1]
        left = values.sum() - np.bincount(codes, weights=values)
        count = len(values) - np.bincount(codes)
        if not count.all() or left.min() <= 0.0:
            return Estimate(value=value, n=len(x))
        variance += _jackknife_variance(np.log(left / count))
    factor = float(np.exp(Z95 * np.sqrt(variance)))
    return Estimate(value=value, low=value / factor, high=value * factor, n=len(x))


def _without_each(
    within: Floats, cross: Floats, groups: npt.NDArray[np.integer]
) -> tuple[Floats, Floats, Floats]:
    """Return, with each group left out, the remaining rows, their kernel sum and their cross kernel sum."""
    codes = np.unique(groups, return_inverse=True)[1]
    count = np.bincount(codes)
    rows = np.bincount(codes, weights=within.sum(axis=1))
    members = np.split(np.argsort(codes, kind="stable"), np.cumsum(count)[:-1])
    inside = np.array([within[np.ix_(own, own)].sum() for own in members])
    left = (len(groups) - count).astype(np.float64)
    outside = cross.sum() - np.bincount(codes, weights=cross.sum(axis=1))
    return left, within.sum() - 2.0 * rows + inside, outside


def _kernel(x: Features, y: Features) -> Floats:
    product = x.astype(np.float64) @ y.astype(np.float64).T
    product /= x.shape[1]
    product += 1.0
    return product * product * product


def _off_diagonal(square: Floats) -> Floats:
    np.fill_diagonal(square, 0.0)
    return square


def _jackknife_variance(dropped: Floats) -> float:
    groups = len(dropped)
    return float((groups - 1) / groups * np.square(dropped - dropped.mean()).sum())
