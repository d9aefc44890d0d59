"""Classifier metrics for many weightings of the same cases at once, for the bootstrap."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Bools, Floats

Probabilities = npt.NDArray[np.floating]
"""(n, C) of the classes, rows sum to 1; or (n, K), each finding by itself."""
Labels = npt.NDArray[np.integer] | Floats
"""(n,), in 0..C-1; or (n, K) findings: 1 present, 0 absent, NaN unknown."""
Weights = Floats
"""(B, n), not negative: B weightings of the n cases (a bootstrap draw is the count of each case)."""

NUM_BINS = 15
Metric = Callable[[Probabilities, Labels, Weights], Floats]
"""Returns (B,), NaN where a weighting lacks what the metric needs: a case of each class, or a case with and
one without each finding. Of several findings it is the mean, each among the cases where it is known."""


def _of_findings(metric: Metric) -> Metric:
    """Extend a metric of classes to findings, each of which has the two classes absent and present."""

    @functools.wraps(metric)
    def extended(probabilities: Probabilities, labels: Labels, weights: Weights) -> Floats:
        if labels.ndim == 1:
            return metric(probabilities, labels, weights)
        values = []
        for column in range(labels.shape[1]):
            known = ~np.isnan(labels[:, column])
            if not known.any():
                return np.full(len(weights), np.nan)
            present = probabilities[known, column]
            states = labels[known, column].astype(np.int64)
            values.append(metric(np.stack([1.0 - present, present], axis=1), states, weights[:, known]))
        return np.mean(values, axis=0)

    return extended


@_of_findings
def auc(probabilities: Probabilities, labels: Labels, weights: Weights) -> Floats:
    """Area under the ROC curve, ties counted half; for more than two classes the mean of one against rest."""
    # Of two classes, one against the other has the same area whichever is called positive.
    positives = [1] if probabilities.shape[1] == 2 else range(probabilities.shape[1])
    return _over_classes(probabilities, labels, weights, _area, positives)


def sensitivity_at(specificity: float) -> Metric:
    """Return a metric: the highest sensitivity at a specificity of at least `specificity`.

    It is the mean over the classes, each against the rest, because class indices do not show which of two
    classes is the finding. Of findings it is the sensitivity for their presence.
    """

    def best(true_rate: Weights, false_rate: Weights) -> Floats:
        # A rounding error of the running sum must not exclude the last allowed threshold.
        allowed = false_rate <= 1.0 - specificity + 1e-12
        found = np.where(allowed, true_rate, 0.0).max(axis=1)
        return np.where(np.isnan(true_rate[:, -1]) | np.isnan(false_rate[:, -1]), np.nan, found)

    @_of_findings
    def present(probabilities: Probabilities, labels: Labels, weights: Weights) -> Floats:
        return _over_classes(probabilities, labels, weights, best, [1])

    def metric(probabilities: Probabilities, labels: Labels, weights: Weights) -> Floats:
        if labels.ndim == 2:
            return present(probabilities, labels, weights)
        return _over_classes(probabilities, labels, weights, best, range(probabilities.shape[1]))

    return metric


@_of_findings
def balanced_accuracy(probabilities: Probabilities, labels: Labels, weights: Weights) -> Floats:
    """Mean over classes of the share of cases whose most probable class is right."""
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    recalls = [_share(weights, right, labels == label) for label in range(probabilities.shape[1])]
    return np.stack(recalls).mean(axis=0)


@_of_findings
def brier(probabilities: Probabilities, labels: Labels, weights: Weights) -> Floats:
    """Half the squared distance between probabilities and truth (Brier 1950), 0 to 1; lower is better."""
    truth = np.eye(probabilities.shape[1])[labels]
    squared = 0.5 * np.square(probabilities - truth).sum(axis=1)
    return _share(weights, squared, np.ones(len(labels), dtype=bool))


@_of_findings
def ece(probabilities: Probabilities, labels: Labels, weights: Weights) -> Floats:
    """Expected calibration error of the most probable class in 15 equal bins (Guo et al. 2017)."""
    confidence = probabilities.max(axis=1).astype(np.float64)
    right = (probabilities.argmax(axis=1) == labels).astype(np.float64)
    bins = np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    member = np.eye(NUM_BINS)[bins] * (right - confidence)[:, None]
    return np.abs(weights @ member).sum(axis=1) / weights.sum(axis=1)


def _over_classes(
    probabilities: Probabilities,
    labels: Labels,
    weights: Weights,
    reduce: Callable[[Weights, Weights], Floats],
    positives: Sequence[int],
) -> Floats:
    values = [reduce(*_roc(probabilities[:, k], labels == k, weights)) for k in positives]
    return np.stack(values).mean(axis=0)


def _roc(scores: npt.NDArray[np.floating], positive: Bools, weights: Weights) -> tuple[Weights, Weights]:
    """Return (true, false) positive rates at each distinct threshold, from the highest: (B, k + 1)."""
    order = np.argsort(-scores, kind="stable")
    sorted_scores = scores[order]
    last_of_tie = np.append(np.flatnonzero(np.diff(sorted_scores)), len(scores) - 1)
    weights, positive = weights[:, order], positive[order]
    with np.errstate(invalid="ignore", divide="ignore"):
        rates = [_cumulated(weights * side, last_of_tie) for side in (positive, ~positive)]
    return rates[0], rates[1]


def _cumulated(weights: Weights, ends: npt.NDArray[np.integer]) -> Weights:
    total = np.cumsum(weights, axis=1)[:, ends]
    rates = total / total[:, -1:]
    return np.concatenate([np.where(np.isnan(rates[:, :1]), np.nan, 0.0), rates], axis=1)


def _area(true_rate: Weights, false_rate: Weights) -> Floats:
    steps = np.diff(false_rate, axis=1)
    return (0.5 * steps * (true_rate[:, 1:] + true_rate[:, :-1])).sum(axis=1)


def _share(weights: Weights, values: Floats, among: Bools) -> Floats:
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights[:, among] @ values[among]) / weights[:, among].sum(axis=1)
