"""95 % intervals: a bootstrap over patients and seeds, and the exact binomial interval."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Floats
from pipeline.artifacts.evaluation_report import Estimate
from pipeline.evaluate.metrics import Labels, Metric, Probabilities, Weights
from pipeline.wording.power import clopper_pearson

DRAWS_BEYOND = 5
"""Bootstrap draws that must lie beyond a percentile for it to be an end of an interval. Corrections for many
comparisons ask for percentiles that few draws reach."""

BLOCK_VALUES = 2**21
"""Counts of cases that are weighed at a time, for 16 MiB of weights."""

Counts = npt.NDArray[np.uint16]
"""(B, n) count of each case in each draw. No count reaches the limit of 16 bits: on average it is 1."""


@dataclass(frozen=True)
class Resamples:
    """Bootstrap draws shared by all measurements on one split, so that all comparisons are paired.

    Attributes:
        cases: (B, n) count of each case in each draw; whole patients are drawn with replacement.
        seeds: (B, S) share of each classifier seed in each draw; rows sum to 1.
    """

    cases: Counts
    seeds: Weights


def draw_resamples(
    patients: npt.NDArray[np.integer], num_seeds: int, num_resamples: int, rng: np.random.Generator
) -> Resamples:
    """Draw patients and classifier seeds with replacement.

    Args:
        patients: (n,) patient of each case.
        num_seeds: number of classifier seeds S.
        num_resamples: number of draws B.
        rng: random generator of the draws.
    """
    cases = draw_cases(patients, num_resamples, rng)
    seeds = rng.multinomial(num_seeds, np.full(num_seeds, 1.0 / num_seeds), size=num_resamples)
    return Resamples(cases, seeds / num_seeds)


def draw_cases(patients: npt.NDArray[np.integer], count: int, rng: np.random.Generator) -> Counts:
    """Draw whole patients with replacement; return the count (B, n) of each case in each of `count` draws."""
    codes = np.unique(patients, return_inverse=True)[1]
    number = int(codes.max()) + 1
    shares = np.full(number, 1.0 / number)
    drawn = np.empty((count, len(codes)), dtype=np.uint16)
    for rows in _blocks(count, len(codes)):
        drawn[rows] = rng.multinomial(number, shares, size=rows.stop - rows.start)[:, codes]
    return drawn


def on_draws(metric: Metric, probabilities: Probabilities, labels: Labels, draws: Counts) -> Floats:
    """Return a metric on each draw of cases, (B,).

    A metric needs several times the memory of its weightings, so it gets a block of draws at a time.

    Args:
        metric: the metric.
        probabilities: (n, C) of one classifier.
        labels: what is true of the n cases.
        draws: (B, n) as from `draw_cases`.
    """
    found = [
        metric(probabilities, labels, draws[rows].astype(np.float64))
        for rows in _blocks(len(draws), len(labels))
    ]
    return np.concatenate(found)


def _blocks(count: int, size: int) -> Iterator[slice]:
    """Yield slices of `count` draws of `size` cases each that hold some `BLOCK_VALUES` counts."""
    step = max(BLOCK_VALUES // max(size, 1), 1)
    for first in range(0, count, step):
        yield slice(first, min(first + step, count))


@dataclass(frozen=True)
class ArmMetric:
    """A metric of one arm: its value for each seed and for each draw.

    Attributes:
        by_seed: (S,) on all cases.
        draws: (B,) mean over the draw's seeds on the draw's patients; NaN where it is not defined.
        num_cases: n.
    """

    by_seed: Floats
    draws: Floats
    num_cases: int

    @property
    def estimate(self) -> Estimate:
        """Mean over seeds with the percentile interval of the draws."""
        return _estimate(float(self.by_seed.mean()), self.draws, self.num_cases)

    def minus(self, other: ArmMetric, comparisons: int = 1, *, level: float = 0.95) -> Estimate:
        """Return the paired difference to another arm measured with the same draws.

        Args:
            other: what is subtracted.
            comparisons: number of such differences; the upper ends hold for all of them together with
                probability (1 + `level`) / 2 (Bonferroni), the lower ends each by itself.
            level: level of the interval.
        """
        value = float(self.by_seed.mean() - other.by_seed.mean())
        tail = (1.0 - level) / 2
        return _estimate(value, self.draws - other.draws, self.num_cases, (tail, tail / comparisons))


def measure(
    metric: Metric, predictions: Sequence[Probabilities], labels: Labels, resamples: Resamples
) -> ArmMetric:
    """Measure one metric of one arm: `predictions` holds (n, C) for each of the S seeds."""
    everyone = np.ones((1, len(labels)))
    by_seed = np.array([metric(p, labels, everyone)[0] for p in predictions])
    per_seed = np.stack([on_draws(metric, p, labels, resamples.cases) for p in predictions], axis=1)
    return ArmMetric(by_seed, (per_seed * resamples.seeds).sum(axis=1), len(labels))


def smallest(differences: Sequence[Estimate]) -> Estimate:
    """Return the smallest of several differences, with an interval for it.

    Its lower end is the lowest of all lower ends, which need no correction: the end of the true smallest one
    alone has to hold (intersection-union test, Berger 1982). Its upper end is the lowest of all upper ends,
    which must hold together.
    """
    lows = [own.low for own in differences if own.low is not None]
    highs = [own.high for own in differences if own.high is not None]
    value, n = min(own.value for own in differences), differences[0].n
    if not len(lows) == len(highs) == len(differences):
        return Estimate(value=value, n=n)
    return Estimate(value=value, low=min(lows), high=min(highs), n=n)


def binomial(successes: int, trials: int) -> Estimate:
    """Return a share with its exact 95 % interval (Clopper and Pearson 1934).

    Raises:
        ValueError: no trials, or successes outside 0..trials.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise ValueError(f"successes must lie in 0..trials with trials at least 1, got {successes}, {trials}")
    low, high = clopper_pearson(successes, trials, tail=0.025)
    return Estimate(value=successes / trials, low=low, high=high, n=trials)


def _estimate(value: float, draws: Floats, n: int, tails: tuple[float, float] = (0.025, 0.025)) -> Estimate:
    valid = draws[np.isfinite(draws)]
    # If half of the draws lack a class, percentiles of the others would be too narrow.
    if len(valid) < 0.5 * len(draws):
        return Estimate(value=value, n=n)
    low, high = (_end(value, valid, tail, side) for tail, side in zip(tails, (-1, 1), strict=True))
    return Estimate(value=value, low=low, high=high, n=n)


def _end(value: float, draws: Floats, tail: float, side: int) -> float:
    """Return an end of an interval: a percentile, or the normal one if too few draws lie beyond it."""
    if tail * len(draws) >= DRAWS_BEYOND:
        return float(np.quantile(draws, tail if side < 0 else 1.0 - tail))
    return value + side * NormalDist().inv_cdf(1.0 - tail) * float(draws.std(ddof=1))
