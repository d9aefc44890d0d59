"""Measures of how well a score separates members: AUC, TPR at low FPR, p-value, lower bound on epsilon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Bools, Floats, Ints
from pipeline.wording.power import clopper_pearson

LOW_ERROR = 0.01
GUESSED_SHARES = (0.1, 0.3, 1.0)
"""Shares of the audit patients that the bound on epsilon guesses; each is a separate test."""


@dataclass(frozen=True)
class Hits:
    """Share of members found if at most `LOW_ERROR` of non-members are taken for members, with interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class EpsilonBound:
    """One-run lower bound on epsilon.

    Attributes:
        epsilon: with the chosen confidence, no (epsilon', delta)-private training with a smaller epsilon'
            would let an attack separate the patients this well; 0 if nothing is separated.
        guesses: number of patients that were guessed.
        correct: number of correct guesses.
    """

    epsilon: float
    guesses: int
    correct: int


def patient_scores(scores: Floats, patients: Ints, members: Bools) -> tuple[Floats, Bools]:
    """Return the mean score of each patient (P,) and whether that patient is a member (P,).

    A coin was flipped for each patient, not for each image.

    Args:
        scores: (n,) scores of images.
        patients: (n,) patient codes.
        members: (n,) whether the patient is a member, equal for all images of a patient.
    """
    _, first, inverse = np.unique(patients, return_index=True, return_inverse=True)
    mean = np.bincount(inverse, weights=scores) / np.bincount(inverse)
    return mean, members[first]


def auc(scores: Floats, members: Bools) -> float:
    """Return the probability that a random member scores higher than a random non-member (ties: half)."""
    return float(_auc_of(_ranks(scores), members[None, :])[0])


def permutation_p(scores: Floats, members: Bools, *, draws: int, rng: np.random.Generator) -> float:
    """Return the probability of an AUC at least this large for other coin flips.

    The test is exact for any scores, because the coin flips are independent of them unless the model reveals
    its members. Coin flips are redrawn with the same number of members, given which all arrangements are
    equally likely.
    """
    ranks = _ranks(scores)
    observed = _auc_of(ranks, members[None, :])[0]
    above = 0
    block = max(1, 2**22 // len(scores))
    for first in range(0, draws, block):
        flips = rng.permuted(np.tile(members, (min(block, draws - first), 1)), axis=1)
        above += int((_auc_of(ranks, flips) >= observed - 1e-12).sum())
    return (1 + above) / (1 + draws)


def hits_at_low_error(
    scores: Floats, members: Bools, *, draws: int, rng: np.random.Generator, error: float = LOW_ERROR
) -> Hits:
    """Return the hit rate at a low error with a 95 % interval.

    The interval is the wider of two: the bootstrap over patients of each side, which includes the uncertainty
    of the threshold, and the exact interval for this threshold, which is not zero if there are no hits among
    few patients. The threshold is the smallest score that at most a share `error` of non-members exceeds.
    With fewer than 1 / error non-members it is their highest score.
    """
    inside, outside = scores[members], scores[~members]

    def hit_rate(ours: Floats, theirs: Floats) -> float:
        allowed = int(np.floor(error * len(theirs)))
        mark = np.sort(theirs)[len(theirs) - 1 - allowed]
        return float((ours > mark).mean())

    drawn = [
        hit_rate(rng.choice(inside, len(inside)), rng.choice(outside, len(outside))) for _ in range(draws)
    ]
    value = hit_rate(inside, outside)
    low, high = np.quantile(drawn, [0.025, 0.975])
    exact = clopper_pearson(round(value * len(inside)), len(inside))
    return Hits(value, min(float(low), exact[0]), max(float(high), exact[1]))


def epsilon_lower_bound(
    scores: Floats,
    members: Bools,
    *,
    delta: float = 0.0,
    confidence: float = 0.95,
    shares: Sequence[float] = GUESSED_SHARES,
) -> EpsilonBound:
    """Return the one-run lower bound on epsilon (Steinke, Nasr and Jagielski 2023, theorem 5.2).

    The highest scores are guessed to be members, an equal number of the lowest to be non-members; the rest is
    not guessed. If training were (epsilon, delta)-private for a patient, the number of correct guesses would
    hardly exceed that of randomised response. The best of several shares is used, at a corrected confidence.

    Args:
        scores: (P,) scores of audit patients, each a member by an independent fair coin.
        members: (P,) whether each patient is a member.
        delta: delta of the tested guarantee.
        confidence: confidence of the bound.
        shares: shares of the patients that are guessed.
    """
    total = len(scores)
    order = np.argsort(scores, kind="stable")
    best = EpsilonBound(0.0, 0, 0)
    for share in shares:
        half = int(share * total / 2)
        if not half:
            continue
        correct = int(members[order[-half:]].sum() + (~members[order[:half]]).sum())
        level = (1 - confidence) / len(shares)
        epsilon = _largest_refuted(total, 2 * half, correct, delta, level)
        if epsilon > best.epsilon or not best.guesses:
            best = EpsilonBound(epsilon, 2 * half, correct)
    return best


def refutation_p(total: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """Return an upper bound of the probability of this many correct guesses under (epsilon, delta)-privacy.

    Args:
        total: number of patients whose coins were flipped.
        guesses: number of patients that were guessed.
        correct: number of correct guesses.
        epsilon: epsilon of the tested guarantee.
        delta: delta of the tested guarantee.
    """
    from scipy.stats import binom

    accuracy = 1.0 / (1.0 + np.exp(-epsilon))
    p_value = float(binom.sf(correct - 1, guesses, accuracy))
    if delta > 0 and correct:
        # With probability up to delta a patient may be revealed: i revealed patients are i correct guesses.
        given = np.arange(1, correct + 1)
        between = binom.cdf(correct - 1, guesses, accuracy) - binom.cdf(
            correct - given - 1, guesses, accuracy
        )
        p_value += 2 * total * delta * float((between / given).max())
    return min(1.0, p_value)


def _largest_refuted(total: int, guesses: int, correct: int, delta: float, level: float) -> float:
    """Return the largest epsilon whose p-value is at most `level`, to 1e-4; 0 if there is none."""
    if refutation_p(total, guesses, correct, 0.0, delta) > level:
        return 0.0
    low, high = 0.0, 1.0
    while refutation_p(total, guesses, correct, high, delta) <= level and high < 64:
        low, high = high, 2 * high
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (
            (middle, high) if refutation_p(total, guesses, correct, middle, delta) <= level else (low, middle)
        )
    return low


def _ranks(scores: Floats) -> Floats:
    from scipy.stats import rankdata

    ranks: Floats = rankdata(scores)
    return ranks


def _auc_of(ranks: Floats, members: Bools) -> Floats:
    """Return AUCs (k,) for (k, n) choices of members, from the ranks (n,) (Mann-Whitney)."""
    inside = members.sum(axis=1)
    outside = members.shape[1] - inside
    found: Floats = (members @ ranks - inside * (inside + 1) / 2) / (inside * outside)
    return found
