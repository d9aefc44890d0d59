"""Calibration of scores: the expected score of a non-member, by quantile regression on non-members."""

from __future__ import annotations

import warnings

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Floats, Ints

SIDE = 8
NUM_COMPONENTS = 6
HIGH_QUANTILE = 0.9
LEAST_SCALE = 1e-6
SCANS_A_COMPONENT = 20
PENALTY = 0.1
"""L1 penalty of the quantile regression, divided by the square root of the number of scans."""


class Describer:
    """Describes images by properties that make them harder to denoise, for members and non-members.

    Args:
        images: (n, 1, H, W) non-members in [-1, 1], whose principal components are used.
        num_classes: number of classes.
    """

    def __init__(self, images: npt.NDArray[np.float32], num_classes: int) -> None:
        self.num_classes = num_classes
        small = _small(images)
        self._mean = small.mean(axis=0)
        count = min(NUM_COMPONENTS, len(small) // SCANS_A_COMPONENT)
        self._components = np.linalg.svd(small - self._mean, full_matrices=False)[2][:count]
        plain = self._plain(images)
        self._centre, self._scale = plain.mean(axis=0), np.maximum(plain.std(axis=0), LEAST_SCALE)

    def __call__(self, images: npt.NDArray[np.float32], labels: Ints) -> Floats:
        """Return (n, features): standardised image properties, and indicators of all but the first class."""
        plain = (self._plain(images) - self._centre) / self._scale
        classes = np.eye(self.num_classes)[labels][:, 1:]
        return np.concatenate([plain, classes], axis=1)

    def _plain(self, images: npt.NDArray[np.float32]) -> Floats:
        pixels = images.astype(np.float64)
        down, across = np.diff(pixels, axis=2), np.diff(pixels, axis=3)
        edges = np.log(np.abs(down).mean(axis=(1, 2, 3)) + np.abs(across).mean(axis=(1, 2, 3)) + 1e-3)
        fine = np.diff(down, axis=3)
        grain = np.log(np.abs(fine).mean(axis=(1, 2, 3)) + 1e-3)
        contrast = np.log(pixels.std(axis=(1, 2, 3)) + 1e-3)
        parts = (_small(images) - self._mean) @ self._components.T
        return np.column_stack([pixels.mean(axis=(1, 2, 3)), contrast, edges, grain, parts])


class QuantileCalibration:
    """Calibrates scores relative to those of non-members (Bertran et al. 2023, arXiv 2307.03694).

    The median and a high quantile of the score, given the description of the image, are fitted to
    non-members. The calibrated score is (score - median) / (high - median).

    Args:
        described: (n, features) descriptions of non-members.
        scores: (n,) scores of non-members.
    """

    def __init__(self, described: Floats, scores: Floats) -> None:
        from sklearn.linear_model import QuantileRegressor

        self._scale = max(float(scores.std()), LEAST_SCALE)
        self._centre = float(scores.mean())
        standard = (scores - self._centre) / self._scale
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._models = [
                QuantileRegressor(quantile=q, alpha=PENALTY / len(scores) ** 0.5, solver="highs").fit(
                    described, standard
                )
                for q in (0.5, HIGH_QUANTILE)
            ]
        median, high = (model.predict(described) for model in self._models)
        self._least = max(float(np.median(high - median)) / 4, LEAST_SCALE)

    def __call__(self, described: Floats, scores: Floats) -> Floats:
        """Return calibrated scores (n,)."""
        median, high = (model.predict(described) for model in self._models)
        standard = (scores - self._centre) / self._scale
        # An image must not stand out only because the fitted quantiles are close or cross.
        found: Floats = (standard - median) / np.maximum(high - median, self._least)
        return found


def _small(images: npt.NDArray[np.float32]) -> Floats:
    """Return (n, SIDE^2) means over a grid of cells of about equal size."""
    height, width = images.shape[-2:]
    rows = np.linspace(0, height, SIDE + 1).astype(int)[:-1]
    columns = np.linspace(0, width, SIDE + 1).astype(int)[:-1]
    sums = np.add.reduceat(np.add.reduceat(images[:, 0].astype(np.float64), rows, axis=1), columns, axis=2)
    counts = np.outer(np.diff([*rows, height]), np.diff([*columns, width]))
    return (sums / counts).reshape(len(images), -1)
