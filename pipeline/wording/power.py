"""What a test of a given size could have noticed, and how large it would have to be."""

from __future__ import annotations

import math
from collections.abc import Callable

POWER = 0.8
"""Chance of noticing an effect that counts as being able to notice it (Cohen 1988)."""
MOST = 2**24
"""Sizes beyond which a test is said to need more than anybody has."""


def smallest(enough: Callable[[int], bool], *, most: int = MOST) -> int | None:
    """Return the smallest whole number from 1 on that is enough, None if `most` is not.

    Args:
        enough: whether a number is; once it is, all larger ones are.
        most: where the search ends.
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


def noticeable_auc(members: int, non_members: int, *, significance: float, power: float = POWER) -> float:
    """Return the AUC from which on a rank sum test of so many patients shows it with a chance of `power`.

    The normal approximation of Mann and Whitney (1947), with the variance of the null hypothesis:
    0.5 + (z of significance + z of power) * sqrt((n + m + 1) / (12 n m)). At most 1.

    Args:
        members: n.
        non_members: m.
        significance: one-sided level of the test, after its correction for the number of tests.
        power: chance of noticing.
    """
    from scipy.stats import norm

    if not members or not non_members:
        return 1.0
    error = math.sqrt((members + non_members + 1) / (12 * members * non_members))
    return min(1.0, 0.5 + float(norm.isf(significance) + norm.ppf(power)) * error)


def patients_for_auc(value: float, *, significance: float, power: float = POWER) -> int | None:
    """Return how many patients on either side notice an AUC of `value`; the inverse of `noticeable_auc`."""

    def enough(count: int) -> bool:
        return noticeable_auc(count, count, significance=significance, power=power) <= value

    return smallest(enough)


def least_p(members: int, non_members: int) -> float:
    """Return the p-value of a perfect ranking: 1 over the number of ways to choose the members."""
    return 1.0 / math.comb(members + non_members, members)


def trials_below(share: float, bound: float) -> int | None:
    """Return how many trials show, at a measured share, that the true one lies below a bound.

    The smallest number whose exact 95 % interval (Clopper and Pearson 1934) ends at or below the bound.

    Args:
        share: measured share of successes.
        bound: above it; None is returned where it is not.
    """
    from scipy.stats import beta

    def enough(trials: int) -> bool:
        return float(beta.ppf(0.975, share * trials + 1, (1 - share) * trials)) <= bound

    return None if share >= bound else smallest(enough)


def noticeable_excess(half_width: float, power: float = POWER) -> float:
    """Return the true difference that a 95 % interval of this half width leaves zero out with `power`.

    The interval leaves out zero if the estimate is more than a half width away from it; a normal estimate is,
    with that chance, if the true value is (z of .975 + z of power) / z of .975 half widths away.
    """
    from scipy.stats import norm

    edge = float(norm.ppf(0.975))
    return half_width * (edge + float(norm.ppf(power))) / edge


def round_up(number: float) -> int:
    """Return a number that is enough as people say it: rounded up to two digits."""
    whole = math.ceil(number)
    unit = 10 ** max(0, len(str(whole)) - 2)
    return math.ceil(whole / unit) * unit
