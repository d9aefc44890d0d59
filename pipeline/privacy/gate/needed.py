"""How many candidates, or real scans, the copy count would need to detect the planted share."""

from __future__ import annotations

import numpy as np

from pipeline.arrays import Floats, Ints
from pipeline.artifacts.privacy_report import Needed
from pipeline.privacy.gate.set_tests import (
    AGREED_SIDE_LEVEL,
    CONTROL_RANKS,
    SIDE_LEVEL,
    STANDS_OUT,
    outstanding,
)
from pipeline.privacy.search.agreement import Agreed, agreed, units_of
from pipeline.privacy.search.neighbours import Neighbours
from pipeline.wording.power import smallest

MOST_COPIES, MOST_SCANS = 2_000, 1_000_000
"""Largest numbers searched."""


def needed(
    planted: dict[str, Neighbours],
    control: dict[str, Neighbours],
    *,
    candidates: int,
    holdout_share: float,
    share: float,
    num_tests: int,
    significance: float,
    chance: float,
) -> Needed:
    """Return how many candidates, or real scans, are enough for the copy count to detect a share of copies.

    This follows the design of `count_test`. If c copies stand out and lie in train, among n candidates and m
    real scans, the p-value is that of the precedence test (Nelson 1963), times the number of marks, times the
    number of tests of the audit (Holm's first step). Each planted copy stands out with the measured
    probability, so c is binomial.

    It is assumed that copies are of different patients, that no other candidate stands out, and that the
    marks do not move.

    Args:
        planted: neighbours, in every view, of the copies that power is measured with.
        control: neighbours of the real images of both sides that the audit compares with.
        candidates: number of candidates in this audit.
        holdout_share: probability of a holdout neighbour if neither side is favoured.
        share: share of copies to detect.
        num_tests: number of tests in the corrected family.
        significance: family-wise error.
        chance: required probability of detection.
    """
    from scipy.stats import binom

    marks = _marks(planted, control)
    compared = len(next(iter(control.values())).gap)

    def enough(copies: int, number: int, scans: int) -> bool:
        counts = np.arange(1, copies + 1)
        for rank, share_out, level in marks:
            first = _come_first(counts, rank, number, scans)
            told = first * len(CONTROL_RANKS) * num_tests < significance
            told &= (1 - holdout_share) ** counts < level
            if told.any() and binom.sf(int(counts[told][0]) - 1, copies, share_out) >= chance:
                return True
        return False

    def number_of(copies: int) -> int:
        return int(np.ceil(copies / share))

    copies = smallest(lambda own: enough(own, number_of(own), compared), most=MOST_COPIES)
    present = round(share * candidates)
    scans = None
    if present:
        scans = smallest(lambda own: enough(present, candidates, own), most=MOST_SCANS)
    together = None
    if copies is None and scans is None and candidates:

        def alike(own: int) -> int:
            return int(np.ceil(compared * number_of(own) / candidates))

        both = smallest(lambda own: enough(own, number_of(own), alike(own)), most=MOST_COPIES)
        together = None if both is None else (number_of(both), alike(both))
    return Needed(
        planted_share=share,
        chance=chance,
        candidates=None if copies is None else number_of(copies),
        real_scans=scans,
        together=together,
        compared=compared,
        stands_out=max((share_out for _, share_out, _ in marks), default=0.0),
    )


def _come_first(counts: Ints, rank: int, candidates: int, scans: int) -> Floats:
    """Return the probability that `counts` (n,) candidates precede the `rank`-th real scan.

    This happens if fewer than `rank` real scans are among the first counts + rank - 1 (hypergeometric).
    """
    from scipy.special import gammaln

    def log_choose(total: Ints | int, some: Ints | int) -> Floats:
        possible = np.asarray(some) <= total
        ways = gammaln(np.add(total, 1)) - gammaln(np.add(some, 1)) - gammaln(np.maximum(total - some, 0) + 1)
        found: Floats = np.where(possible, ways, -np.inf)
        return found

    drawn = counts + rank - 1
    every = log_choose(candidates + scans, drawn)
    terms = [
        np.exp(log_choose(scans, real) + log_choose(candidates, drawn - real) - every) for real in range(rank)
    ]
    total: Floats = np.sum(terms, axis=0)
    return total


def _marks(planted: dict[str, Neighbours], control: dict[str, Neighbours]) -> list[tuple[int, float, float]]:
    """Return (rank, share of planted copies past that mark, level of the side test) of every count test."""
    units = units_of(control)
    pairs: list[tuple[Neighbours | Agreed, Neighbours | Agreed, float]] = [
        (planted[view], control[view], SIDE_LEVEL) for view in control
    ]
    pairs.append((agreed(planted, units), agreed(control, units), AGREED_SIDE_LEVEL))
    found = []
    for copies, real, level in pairs:
        theirs, _ = outstanding(real)
        for rank in CONTROL_RANKS:
            if rank <= len(theirs):
                past = (copies.gap < STANDS_OUT * theirs[rank - 1]) & copies.side
                found.append((rank, float(past.mean()), level))
    return found
