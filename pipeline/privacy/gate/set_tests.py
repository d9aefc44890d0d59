"""Tests of the whole set: are the most copy-like candidates nearer to train than expected by chance?"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Bools, Floats, Ints
from pipeline.artifacts.privacy_report import COPY_COUNT
from pipeline.privacy.search.agreement import AGREEMENT, Agreed, agreed, units_of
from pipeline.privacy.search.neighbours import Neighbours
from pipeline.privacy.search.views import VIEWS

POOLED = "pooled"
SIGN_TEST = "sign_test"
AFTER_FILTER = "sign_test_after_filter"
DEPTHS = (25, 50, 100, 200)
"""Numbers of most copy-like candidates at which the sides are counted."""
CONTROL_RANKS = (1, 3, 8)
"""Ranks, among the real images, of the copy-like images that set the mark. There are several because one real
image may be close by chance."""
STANDS_OUT = 1.5
"""Factor from the log gap of that real image to the mark. Images of a generator that copies nothing may stand
out half again as much as real ones, for example because they are sharper. Copies stand out three times as
much and more."""
SIDE_LEVEL = 0.1
"""Level of the side test past the mark: candidates must also lean to train, or the generator merely stands
out even more."""
AGREED_SIDE_LEVEL = 0.5
"""The same level where two views agree on the patient, which noise or sharpness does not cause: candidates
must lean to train at all. The stricter level needs 14 candidates if 84 % of the patients are in train."""


@dataclass(frozen=True)
class Plan:
    """Design of the tests of the whole set.

    Attributes:
        depths: numbers of most copy-like candidates at which the sides are counted.
        draws: random draws of the null distribution of the smallest p-value over depths.
        holdout_share: probability of a holdout neighbour if neither side is favoured.
    """

    depths: tuple[int, ...]
    draws: int
    holdout_share: float


@dataclass(frozen=True)
class SideTest:
    """One test: `train` of the `depth` most copy-like candidates have their nearest patient in train."""

    name: str
    view: str
    scope: str
    depth: int
    train: int
    p_value: float


def most_copy_like(found: Neighbours, limit: int) -> Bools:
    """Return the sides of the most copy-like candidates, one per nearest patient, most copy-like first.

    Copy-likeness is the gap between the nearest and the second nearest patient. It is symmetric in train and
    holdout: if nothing was memorised, the side is a coin flip with the holdout's share, however blurred the
    generator's images are. A patient whom many images resemble counts as one coin flip, not as many.
    """
    return outstanding(found)[1][:limit]


def side_test(sides: Bools, plan: Plan) -> tuple[int, int, float]:
    """Return (depth, train neighbours at that depth, p) of a test for too many train neighbours.

    The statistic is the smallest binomial p-value over the depths. It is compared with its null distribution,
    which is simulated. Small depths detect sparse copies, large depths a general shift towards train.
    """
    depths = _usable(plan.depths, len(sides))
    counts = np.cumsum(sides)[np.array(depths) - 1]
    tails = _tails(depths, plan.holdout_share)
    by_depth = np.array([tails[i][count] for i, count in enumerate(counts)])
    best = int(by_depth.argmin())
    null = _null_minima(depths, plan.holdout_share, plan.draws)
    below = int(np.searchsorted(null, by_depth[best] * (1 + 1e-9), side="right"))
    return depths[best], int(counts[best]), (1 + below) / (1 + len(null))


def count_test(
    found: Neighbours | Agreed, control: Neighbours | Agreed, plan: Plan, side_level: float = SIDE_LEVEL
) -> tuple[int, int, float]:
    """Return (candidates past the mark, of them in train, p) of a test for too many copy-like candidates.

    This is a precedence test (Nelson 1963), which is exact and distribution-free: if candidates and real
    images are ranked together, how many candidates precede the k-th most copy-like real image?

    The test does not depend on coin flips with unequal sides, so it needs fewer copies to fail than the sign
    test. But it compares generated with real images. Therefore the mark is set farther out than that real
    image (`STANDS_OUT`), and the candidates past it must also lean to train.

    Args:
        found: neighbours of the candidates.
        control: neighbours of real images of both sides, their own patients excluded.
        plan: design of the tests; only `holdout_share` is used.
        side_level: level of the test that the candidates past the mark lean to train.
    """
    from scipy.stats import binom, hypergeom

    ours, sides = outstanding(found)
    theirs, _ = outstanding(control)
    best = (0, 0, 1.0)
    for rank in CONTROL_RANKS:
        if rank > len(theirs):
            break
        beyond = ours < STANDS_OUT * theirs[rank - 1]
        past, train = int(beyond.sum()), int(sides[beyond].sum())
        p_value = 1.0
        if past and binom.sf(train - 1, past, 1 - plan.holdout_share) < side_level:
            # `past` candidates come first if at most rank - 1 of the first past + rank - 1 are control.
            total = len(found.gap) + len(control.gap)
            first = float(hypergeom.cdf(rank - 1, total, len(control.gap), past + rank - 1))
            p_value = min(1.0, first * len(CONTROL_RANKS))
        if p_value < best[2] or not best[0]:
            best = (past, train, p_value)
    return best


def outstanding(found: Neighbours | Agreed) -> tuple[Floats, Bools]:
    """Return gaps and sides, most copy-like first, one per nearest patient."""
    order = np.argsort(found.gap, kind="stable")
    _, first = np.unique(found.patient[order], return_index=True)
    rows = order[np.sort(first)]
    return found.gap[rows], found.side[rows]


def run_tests(
    found: dict[str, Neighbours],
    labels: Ints,
    classes: dict[str, int],
    plan: Plan,
    *,
    control: dict[str, Neighbours],
    cut: dict[str, float] | None,
) -> list[SideTest]:
    """Run the sign test (pooled, per class, pooled after filtering) and the copy count in every view.

    The copy count also runs on the agreement of two views, which is the most sensitive test for few copies.

    Args:
        found: neighbours of the candidates before filtering (filtering would blind the test).
        labels: (n,) class codes.
        classes: name -> code of the classes to test.
        plan: design of the tests.
        control: neighbours of real images of both sides, their own patients excluded.
        cut: view -> log gap below which candidates of either side are excluded from the test after filtering.
            None skips that test.
    """
    tests: list[SideTest] = []
    for view in VIEWS:
        scopes = {POOLED: np.ones(len(labels), dtype=bool)}
        if len(classes) > 1:
            scopes |= {name: labels == code for name, code in classes.items()}
        for scope, chosen in scopes.items():
            tests += _one(SIGN_TEST, view, scope, found[view].take(chosen), plan)
        tests.append(SideTest(COPY_COUNT, view, POOLED, *count_test(found[view], control[view], plan)))
        if cut is not None:
            left = found[view].gap >= cut[view]
            tests += _one(AFTER_FILTER, view, POOLED, found[view].take(left), plan)
    units = units_of(control)
    counted = count_test(agreed(found, units), agreed(control, units), plan, AGREED_SIDE_LEVEL)
    tests.append(SideTest(COPY_COUNT, AGREEMENT, POOLED, *counted))
    return tests


def holm(p_values: list[float]) -> list[float]:
    """Return Holm's step-down adjusted p-values (Holm 1979)."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    adjusted, running = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def detection_power(
    found: dict[str, Neighbours],
    labels: Ints,
    classes: dict[str, int],
    plan: Plan,
    *,
    control: dict[str, Neighbours],
    planted: dict[str, Neighbours],
    planted_labels: Ints,
    share: float,
    draws: int,
    significance: float,
    rng: np.random.Generator,
) -> dict[tuple[str, str, str], Floats]:
    """Simulate audits of these candidates with a share of them replaced by copies of train.

    The test after filtering is not simulated, because filtering removes the planted copies. It still counts
    in the correction, so that the family is as large as in the audit.

    Returns:
        (test name, view, scope) -> (draws,) 1.0 where that test's adjusted p-value was below `significance`.
    """
    detected: dict[tuple[str, str, str], list[float]] = {}
    for _ in range(draws):
        rows, sources = [], []
        for code in classes.values():
            own = np.flatnonzero(labels == code)
            pool = np.flatnonzero(planted_labels == code)
            count = min(len(own), round(share * len(own)))
            if count and len(pool):
                rows.append(rng.choice(own, count, replace=False))
                sources.append(rng.choice(pool, count, replace=count > len(pool)))
        at = np.concatenate(rows) if rows else np.empty(0, dtype=np.int64)
        taken = np.concatenate(sources) if sources else np.empty(0, dtype=np.int64)
        mixed = {view: _replace(found[view], at, planted[view], taken) for view in VIEWS}
        tests = run_tests(mixed, labels, classes, plan, control=control, cut=None)
        adjusted = holm([test.p_value for test in tests] + [1.0] * len(VIEWS))
        for test, p in zip(tests, adjusted, strict=False):
            detected.setdefault((test.name, test.view, test.scope), []).append(float(p < significance))
    return {key: np.array(values) for key, values in detected.items()}


def _one(name: str, view: str, scope: str, found: Neighbours, plan: Plan) -> list[SideTest]:
    sides = most_copy_like(found, max(plan.depths))
    if not len(sides):
        return []
    depth, train, p_value = side_test(sides, plan)
    return [SideTest(name, view, scope, depth, train, p_value)]


def _replace(found: Neighbours, at: Ints, planted: Neighbours, taken: Ints) -> Neighbours:
    parts = {}
    for name in Neighbours.__dataclass_fields__:
        values = getattr(found, name).copy()
        values[at] = getattr(planted, name)[taken]
        parts[name] = values
    return Neighbours(**parts)


def _usable(depths: tuple[int, ...], available: int) -> tuple[int, ...]:
    usable = tuple(depth for depth in depths if depth <= available)
    return usable or (available,)


@functools.lru_cache(maxsize=64)
def _tails(depths: tuple[int, ...], holdout_share: float) -> tuple[Floats, ...]:
    """Return for each depth the probability of at least 0, 1, ..., depth train neighbours."""
    from scipy.stats import binom

    return tuple(binom.sf(np.arange(depth + 1) - 1, depth, 1 - holdout_share) for depth in depths)


@functools.lru_cache(maxsize=64)
def _null_minima(depths: tuple[int, ...], holdout_share: float, draws: int) -> Floats:
    """Return the sorted smallest p-values over depths of `draws` random sequences of sides (fixed seed)."""
    rng = np.random.default_rng(20_240_229)
    counts = np.cumsum(rng.random((draws, max(depths))) >= holdout_share, axis=1)
    tails = _tails(depths, holdout_share)
    minima = np.min([tail[counts[:, depth - 1]] for depth, tail in zip(depths, tails, strict=True)], axis=0)
    return np.sort(minima)
