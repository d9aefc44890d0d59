"""What a test of a given sample size can detect, and the sample size needed to detect an effect."""

from __future__ import annotations

import math
from collections.abc import Callable

POWER = 0.8
"""Probability of detecting an effect from which on a test counts as able to detect it (Cohen 1988)."""
LEVEL = 0.95
"""Probability that an interval holds the true value."""
MOST = 2**24
"""Largest sample size searched; beyond it, no sample size counts as sufficient."""


def smallest(enough: Callable[[int], bool], *, most: int = MOST) -> int | None:
    """Return the smallest positive integer that is enough, or None if `most` is not.

    Args:
        enough: returns whether a number is enough; monotone: if a number is, all larger ones are.
        most: largest number searched.
    """
    high = 1
    while not enough(high):
        if high >= most:
            return None
        high = min(2 * high, most)
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def clopper_pearson(hits: float, total: int, tail: float = (1.0 - LEVEL) / 2) -> tuple[float, float]:
    """Return the exact two-sided interval of a share (Clopper and Pearson 1934).

    Args:
        hits: 0 to `total`.
        total: trials, at least 1.
        tail: probability that the interval leaves out on either side.
    """
    from scipy.stats import beta

    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, total - hits + 1))
    high = 1.0 if hits == total else float(beta.ppf(1.0 - tail, hits + 1, total - hits))
    return low, high


def noticeable_auc(members: int, non_members: int, *, significance: float, power: float = POWER) -> float:
    """Return the smallest AUC that a rank-sum test of this many patients detects with probability `power`.

    Normal approximation of Mann and Whitney (1947), with the variance under the null hypothesis:
    0.5 + (z of significance + z of power) * sqrt((n + m + 1) / (12 n m)), at most 1.

    Args:
        members: n.
        non_members: m.
        significance: one-sided level of the test, corrected for the number of tests.
        power: probability of detection.
    """
    from scipy.stats import norm

    if not members or not non_members:
        return 1.0
    error = math.sqrt((members + non_members + 1) / (12 * members * non_members))
    return min(1.0, 0.5 + float(norm.isf(significance) + norm.ppf(power)) * error)


def patients_for_auc(value: float, *, significance: float, power: float = POWER) -> int | None:
    """Return how many patients on each side detect an AUC of `value`; the inverse of `noticeable_auc`."""

    def enough(count: int) -> bool:
        return noticeable_auc(count, count, significance=significance, power=power) <= value

    return smallest(enough)


def least_p(members: int, non_members: int) -> float:
    """Return the p-value of a perfect ranking: 1 over the number of ways to choose the members."""
    return 1.0 / math.comb(members + non_members, members)


def trials_below(share: float, bound: float) -> int | None:
    """Return how many trials would show, at a measured share, that the true share is below a bound.

    This is the smallest number whose exact 95 % interval (Clopper and Pearson 1934) ends at or below `bound`.

    Args:
        share: measured share of successes.
        bound: upper bound of the true share; the result is None unless it is above `share`.
    """

    def enough(trials: int) -> bool:
        return clopper_pearson(share * trials, trials)[1] <= bound

    return None if share >= bound else smallest(enough)


def noticeable_gain(
    positives: int, negatives: int, *, auc: float = 0.93, correlation: float = 0.8, power: float = POWER
) -> float:
    """Return the smallest gain in AUC that a paired test of two classifiers detects with probability `power`.

    Standard error of an AUC by Hanley and McNeil (1982), of the difference of two AUCs of the same cases by
    their correlation (Hanley and McNeil 1983).

    Args:
        positives: test cases with the finding, at least 1.
        negatives: test cases without it, at least 1.
        auc: AUC of both classifiers, about.
        correlation: correlation of their AUCs; 0.8 is that of two classifiers of the same kind.
        power: probability of detection.
    """
    from scipy.stats import norm

    first, second = auc / (2.0 - auc), 2.0 * auc**2 / (1.0 + auc)
    variance = auc * (1.0 - auc) + (positives - 1) * (first - auc**2) + (negatives - 1) * (second - auc**2)
    error = math.sqrt(2.0 * (1.0 - correlation) * variance / (positives * negatives))
    return float((norm.isf((1.0 - LEVEL) / 2) + norm.isf(1.0 - power)) * error)


def noticeable_excess(half_width: float, power: float = POWER) -> float:
    """Return the true difference for which a 95 % interval of this half width excludes zero.

    The interval excludes zero if the estimate is more than one half width away from it. For a normal
    estimate, this has probability `power` if the true value is (z of .975 + z of power) / z of .975 half
    widths away.
    """
    from scipy.stats import norm

    edge = float(norm.ppf(0.975))
    return half_width * (edge + float(norm.ppf(power))) / edge


def round_up(number: float) -> int:
    """Return a sufficient number rounded up to two significant digits."""
    whole = math.ceil(number)
    unit = 10 ** max(0, len(str(whole)) - 2)
    return math.ceil(whole / unit) * unit
