"""What it would take to notice a share of copies is what simulated audits of that size need."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import hypergeom

from pipeline.artifacts.privacy_report import Needed
from pipeline.privacy.gate.needed import _come_first, needed
from pipeline.privacy.gate.set_tests import detection_power
from pipeline.privacy.search.neighbours import Neighbours
from tests.pipeline.privacy.gate.test_set_tests import CLASSES, PLAN, all_views

TESTS = 24
SHARE = 0.02


def copies(count: int = 400) -> dict[str, Neighbours]:
    return all_views(count, np.random.default_rng(5), pull=1.0)


def real(count: int) -> dict[str, Neighbours]:
    return all_views(count, np.random.default_rng(6))


def worked_out(planted: dict[str, Neighbours], *, candidates: int, scans: int) -> Needed:
    return needed(
        planted, real(scans), candidates=candidates, holdout_share=PLAN.holdout_share, share=SHARE,
        num_tests=TESTS, significance=0.01, chance=0.8,
    )  # fmt: skip


def simulated(candidates: int, scans: int) -> float:
    """Return the chance that any test of simulated audits notices the share."""
    labels = np.arange(candidates) % 2
    # Candidates that stand out less than real scans, so that the copies alone are found.
    found = all_views(candidates, np.random.default_rng(7), blur=0.5)
    detected = detection_power(
        found, labels, CLASSES, PLAN, control=real(scans), planted=copies(), share=SHARE, draws=40,
        planted_labels=np.arange(400) % 2, significance=0.01, rng=np.random.default_rng(8),
    )  # fmt: skip
    return float(np.max(list(detected.values()), axis=0).mean())


def test_the_candidates_that_are_called_enough_are_and_half_of_them_are_not() -> None:
    found = worked_out(copies(), candidates=100, scans=1_000)
    assert found.candidates is not None and found.stands_out > 0.9
    assert simulated(found.candidates, 1_000) >= 0.8
    assert simulated(found.candidates // 2, 1_000) < 0.5


def test_with_few_real_scans_no_number_of_candidates_is_enough_and_more_scans_are_named() -> None:
    found = worked_out(copies(), candidates=1_000, scans=120)
    assert found.candidates is None and found.compared == 120
    assert found.real_scans is not None and found.real_scans > 120
    # A little is left for the marks, which move out where more real scans are compared.
    assert simulated(1_000, round(1.2 * found.real_scans)) >= 0.8


def test_where_neither_alone_is_enough_both_together_are_named() -> None:
    found = worked_out(copies(), candidates=100, scans=200)
    assert (found.candidates, found.real_scans) == (None, None)
    assert found.together is not None and found.together[1] == 2 * found.together[0]
    candidates, scans = found.together
    assert simulated(candidates, round(1.2 * scans)) >= 0.8
    assert simulated(candidates // 2, scans // 2) < 0.5


def test_copies_that_do_not_stand_out_need_more_than_numbers() -> None:
    hidden = all_views(400, np.random.default_rng(9))
    found = worked_out(hidden, candidates=1_000, scans=1_000)
    assert (found.candidates, found.real_scans, found.together) == (None, None, None)
    assert found.stands_out < 0.2


@pytest.mark.parametrize("candidates", [1, 20])
def test_where_the_share_is_less_than_one_copy_no_number_of_scans_is_enough(candidates: int) -> None:
    assert worked_out(copies(), candidates=candidates, scans=1_000).real_scans is None


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_the_chance_to_come_first_is_hypergeometric(rank: int) -> None:
    counts = np.arange(1, 31)
    expected = hypergeom.cdf(rank - 1, 30 + 40, 40, counts + rank - 1)
    assert _come_first(counts, rank, 30, 40) == pytest.approx(expected, abs=1e-12)
