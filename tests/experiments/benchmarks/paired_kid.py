"""Difference of two KIDs against the same real images, with the standard error that paired noise leaves."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Features = npt.NDArray[np.floating]
_BLOCK_ROWS = 1000


@dataclass(frozen=True)
class KernelSums:
    """Sums of the KID kernel of a sample x (n, d) against itself and against real images y (m, d).

    Attributes:
        within: (n,) of each row of x with all other rows of x.
        to_real: (n,) of each row of x with all of y.
        from_real: (m,) of each row of y with all of x.
    """

    within: npt.NDArray[np.float64]
    to_real: npt.NDArray[np.float64]
    from_real: npt.NDArray[np.float64]


def kernel_sums(x: Features, y: Features) -> KernelSums:
    """Return the sums, block by block so that no (n, n) matrix is held."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    within, to_real, from_real = np.empty(len(x)), np.empty(len(x)), np.zeros(len(y))
    for start in range(0, len(x), _BLOCK_ROWS):
        block = slice(start, start + _BLOCK_ROWS)
        own = _kernel(x[block], x)
        within[block] = own.sum(axis=1) - np.diagonal(own, offset=start)
        cross = _kernel(x[block], y)
        to_real[block] = cross.sum(axis=1)
        from_real += cross.sum(axis=0)
    return KernelSums(within, to_real, from_real)


def paired_difference(
    x: KernelSums, reference: KernelSums, groups: npt.NDArray[np.integer]
) -> tuple[float, float]:
    """Return KID(x) - KID(reference) and its standard error, row i of both from the same noise.

    The kernel sum within the real images cancels. The error is the jackknife that leaves out a pair of
    samples at a time, plus the one that leaves out a patient's real images at a time, as
    `pipeline.evaluate.fidelity.distances.kid` does for one sample: what both samples share is not counted as
    noise.

    Args:
        x, reference: sums of both samples, of equal length, against the same real images.
        groups: (m,) patient of each real image.

    Raises:
        ValueError: the samples differ in length, or there are fewer than 3 pairs or 2 patients.
    """
    n, m = len(x.within), len(groups)
    codes = np.unique(groups, return_inverse=True)[1]
    if len(reference.within) != n or n < 3 or len(np.unique(codes)) < 2:
        raise ValueError(f"needs 3 pairs and 2 patients, got {n} and {len(reference.within)} samples")
    within, to_real = x.within - reference.within, x.to_real - reference.to_real
    from_real = x.from_real - reference.from_real
    value = within.sum() / (n * (n - 1)) - 2.0 * to_real.sum() / (n * m)
    without_pair = (within.sum() - 2.0 * within) / ((n - 1) * (n - 2)) - 2.0 * (to_real.sum() - to_real) / (
        (n - 1) * m
    )
    left = m - np.bincount(codes)
    without_patient = -2.0 * (from_real.sum() - np.bincount(codes, weights=from_real)) / (n * left)
    variance = _jackknife_variance(without_pair) + _jackknife_variance(without_patient)
    return float(value), float(np.sqrt(variance))


def _kernel(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    product: npt.NDArray[np.float64] = (x @ y.T / x.shape[1] + 1.0) ** 3
    return product


def _jackknife_variance(values: npt.NDArray[np.float64]) -> float:
    return float((len(values) - 1) / len(values) * np.square(values - values.mean()).sum())
