"""DeLong's test: the difference of two AUCs that are measured on the same scans."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Bools, Floats
from pipeline.artifacts.evaluation_report import Estimate, PairedTest
from pipeline.evaluate.fidelity.distances import Z95

_ROUNDING = 1e-12


def delong(positive: Bools, first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> PairedTest:
    """Test the difference of two correlated AUCs (DeLong, DeLong and Clarke-Pearson 1988).

    The placement values come from midranks (Sun and Xu 2014), in O(n log n); ties count one half. The test
    takes scans as independent, and scores as given: neither patients with several scans nor the training of
    the classifiers contribute to its standard error.

    Args:
        positive: (n,) whether a scan is of the positive class.
        first: (n,) scores of the first classifier, higher for positive scans.
        second: (n,) scores of the second classifier.

    Returns:
        AUC of the first minus AUC of the second. Where the standard error is 0 (equal ranks, or no overlap of
        the classes), there is neither interval nor p-value.

    Raises:
        ValueError: a class has fewer than 2 scans, or the lengths differ.
    """
    if not len(positive) == len(first) == len(second) or min(positive.sum(), (~positive).sum()) < 2:
        raise ValueError("labels and scores must have equal lengths, with at least 2 scans of each class")
    own, other = _placements(positive, first), _placements(positive, second)
    differences = [a - b for a, b in zip(own, other, strict=True)]
    value = float(differences[0].mean())
    error = math.sqrt(sum(float(part.var(ddof=1)) / len(part) for part in differences))
    n = len(positive)
    if error < _ROUNDING:
        return PairedTest(difference=Estimate(value=value, n=n), standard_error=0.0, p_value=None)
    half = Z95 * error
    return PairedTest(
        difference=Estimate(value=value, low=value - half, high=value + half, n=n),
        standard_error=error,
        p_value=math.erfc(abs(value) / error / math.sqrt(2.0)),
    )


def _placements(positive: Bools, scores: npt.NDArray[np.floating]) -> tuple[Floats, Floats]:
    """Return, for each positive scan, the share of negative scans below it, and vice versa: (m,), (n - m,).

    The mean of either is the AUC.
    """
    from scipy.stats import rankdata

    above, below = scores[positive], scores[~positive]
    ranks = rankdata(scores)
    over = (ranks[positive] - rankdata(above)) / len(below)
    under = 1.0 - (ranks[~positive] - rankdata(below)) / len(above)
    return over, under
