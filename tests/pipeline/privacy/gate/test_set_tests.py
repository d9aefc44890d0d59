"""The tests over a whole set: silent where nothing is copied, loud where something is."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.artifacts.privacy_report import COPY_COUNT
from pipeline.privacy.gate.set_tests import (
    AFTER_FILTER,
    Plan,
    SideTest,
    count_test,
    detection_power,
    holm,
    most_copy_like,
    run_tests,
    side_test,
)
from pipeline.privacy.search.agreement import AGREEMENT, agreed, units_of
from pipeline.privacy.search.neighbours import Neighbours
from pipeline.privacy.search.views import VIEWS

PLAN = Plan((25, 50, 100, 200), 4_000, 0.15)
CLASSES = {"a": 0, "b": 1}


def neighbours(count: int, rng: np.random.Generator, *, pull: float = 0.0, blur: float = 1.0) -> Neighbours:
    """Return neighbours of a generator that copies nothing; `pull` is the share made to lie near train.

    `blur` scales the gaps: a smoother generator stands out less.
    """
    gap = -rng.gamma(1.0, 0.08 * blur, count)
    side = rng.random(count) >= PLAN.holdout_share
    copied = rng.random(count) < pull
    side |= copied
    gap[copied] -= rng.uniform(1.0, 4.0, copied.sum())
    far = np.full(count, 0.5)
    patient = rng.integers(0, 2_000, count)
    # Patients below 300 are the holdout's.
    patient = np.where(side, 300 + patient % 1_700, patient % 300)
    return Neighbours(far, patient, far, far, far[:, None], gap, side, patient)


def all_views(
    count: int, rng: np.random.Generator, *, pull: float = 0.0, blur: float = 1.0
) -> dict[str, Neighbours]:
    """Return neighbours in every view; all views name the same patient as the source of a copy."""
    found = {view: neighbours(count, rng, blur=blur) for view in VIEWS}
    copied = rng.random(count) < pull
    sources = rng.integers(300, 2_000, count)
    for own in found.values():
        own.gap[copied] -= rng.uniform(1.0, 4.0, copied.sum())
        own.side[copied], own.patient[copied] = True, sources[copied]
    return found


def audited_tests(candidates: int, seed: int, known: int = 600, **made: float) -> list[SideTest]:
    rng = np.random.default_rng(seed)
    labels = np.arange(candidates) % 2
    found, control = all_views(candidates, rng, **made), all_views(known, rng)
    return run_tests(found, labels, CLASSES, PLAN, control=control, cut=dict.fromkeys(VIEWS, -0.4))


def failing(tests: list[SideTest]) -> list[SideTest]:
    return [t for t, p in zip(tests, holm([t.p_value for t in tests]), strict=True) if p < 0.01]


@pytest.mark.parametrize("blur", [1.0, 0.5])
def test_a_generator_that_copies_nothing_fails_at_most_as_often_as_allowed(blur: float) -> None:
    failed = sum(bool(failing(audited_tests(1_000, seed, blur=blur))) for seed in range(150))
    assert failed <= 5


def test_a_generator_whose_images_merely_stand_out_more_does_not_fail() -> None:
    failed = sum(bool(failing(audited_tests(1_000, seed, blur=1.3))) for seed in range(60))
    assert failed <= 2


def test_one_percent_of_copies_is_seen_where_real_images_are_as_many() -> None:
    found = sum(bool(failing(audited_tests(2_000, seed, known=2_000, pull=0.01))) for seed in range(30))
    assert found >= 27


def test_two_percent_of_copies_are_seen_and_a_third_by_every_test() -> None:
    sparse = sum(bool(failing(audited_tests(2_000, seed, known=1_000, pull=0.02))) for seed in range(40))
    assert sparse >= 36
    many = {(t.name, t.view, t.scope) for t in failing(audited_tests(1_000, 1, pull=0.3))}
    everything = {
        (t.name, t.view, t.scope) for t in audited_tests(1_000, 1, pull=0.3) if t.name != AFTER_FILTER
    }
    assert many >= everything


def test_after_filtering_planted_copies_are_gone_on_both_sides() -> None:
    tests = audited_tests(1_000, 2, pull=0.3)
    left = [t for t in tests if t.name == AFTER_FILTER]
    assert len(left) == len(VIEWS) and not set(left) & set(failing(tests))


def test_a_pull_towards_a_single_patient_counts_once() -> None:
    rng = np.random.default_rng(0)
    found = neighbours(500, rng)
    found.gap[:200], found.side[:200], found.patient[:200] = -3.0, True, 999
    sides = most_copy_like(found, 50)
    assert len(sides) == 50 and (~sides).any()


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), count=st.integers(2, 300))
def test_the_side_test_gives_a_probability_that_falls_with_more_train_neighbours(
    seed: int, count: int
) -> None:
    sides = np.random.default_rng(seed).random(count) < 0.8
    _, _, p_value = side_test(sides, PLAN)
    _, _, most = side_test(np.ones(count, dtype=bool), PLAN)
    assert 0 < most <= p_value <= 1


def test_the_side_test_keeps_its_level() -> None:
    rng = np.random.default_rng(3)
    p_values = [side_test(rng.random(200) >= PLAN.holdout_share, PLAN)[2] for _ in range(800)]
    assert np.mean(np.array(p_values) < 0.05) < 0.075


def test_the_copy_count_needs_candidates_past_the_holdouts_own_extremes_and_on_the_train_side() -> None:
    rng = np.random.default_rng(4)
    found, control = neighbours(800, rng), neighbours(400, rng)
    assert count_test(found, control, PLAN)[2] > 0.01
    copied = neighbours(800, rng, pull=0.05)
    assert count_test(copied, control, PLAN)[2] < 1e-4
    copied.side[:] = rng.random(800) >= PLAN.holdout_share
    assert count_test(copied, control, PLAN)[2] == 1.0


def test_a_generator_that_stands_out_half_again_as_much_is_not_counted_whatever_its_sides() -> None:
    rng, p_values = np.random.default_rng(7), []
    for stretch in (1.4, 1.5, 4.0):
        control = neighbours(800, rng)
        found = dataclasses.replace(neighbours(800, rng, blur=stretch), side=np.ones(800, dtype=bool))
        p_values.append(count_test(found, control, PLAN)[2])
    assert min(p_values[:2]) > 0.05 and p_values[2] < 1e-4


def test_eight_copies_in_which_two_views_agree_are_enough() -> None:
    rng = np.random.default_rng(8)
    found, control = all_views(400, rng), all_views(2_000, rng)
    units = units_of(control)
    assert count_test(agreed(found, units), agreed(control, units), PLAN, 0.5)[2] > 0.01
    for own in found.values():
        own.gap[:8], own.side[:8], own.patient[:8] = -2.0, True, np.arange(8) + 500
    past, train, p_value = count_test(agreed(found, units), agreed(control, units), PLAN, 0.5)
    assert (past, train) == (8, 8) and p_value < 1e-4
    # In one view alone, or in two that name other patients, they are not counted, however far they stand out.
    for view in VIEWS[1:]:
        found[view].patient[:8] += 100 * (1 + VIEWS.index(view))
    assert count_test(agreed(found, units), agreed(control, units), PLAN, 0.5)[2] > 0.01


def test_views_agree_by_the_weaker_of_two_in_units_of_real_images() -> None:
    rng = np.random.default_rng(9)
    found = all_views(3, rng)
    gaps = {"correlation": -4.0, "embedding": -6.0, "halves": -1.0, "components": -9.0}
    for place, (view, own) in enumerate(found.items()):
        own.gap[:] = gaps[view]
        own.patient[:], own.side[:] = (7, place, 7 + place % 2), True
    both = agreed(found, {"correlation": 1.0, "embedding": 2.0, "halves": 1.0, "components": 3.0})
    # All name patient 7; no two name the same; correlation and halves name 7, the other two 8.
    assert both.gap.tolist() == [-3.0, 0.0, -3.0]
    assert both.patient[[0, 2]].tolist() == [7, 8]


@settings(max_examples=50)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_never_lowers_a_p_value_keeps_order_and_stays_below_one(p_values: list[float]) -> None:
    adjusted = holm(p_values)
    assert all(p <= a <= 1 for p, a in zip(p_values, adjusted, strict=True))
    assert adjusted[int(np.argmin(p_values))] == min(adjusted)
    assert min(adjusted) == min(1.0, len(p_values) * min(p_values))


def test_power_grows_with_the_planted_share_and_the_test_that_detects_is_named() -> None:
    rng = np.random.default_rng(6)
    labels = np.arange(1_000) % 2
    found, control, copies = all_views(1_000, rng), all_views(2_000, rng), all_views(200, rng, pull=1.0)

    def power(share: float) -> dict[tuple[str, str, str], float]:
        hits = detection_power(
            found, labels, CLASSES, PLAN, control=control, planted=copies,
            planted_labels=np.arange(200) % 2, share=share, draws=20, significance=0.01,
            rng=np.random.default_rng(0),
        )  # fmt: skip
        return {key: float(values.mean()) for key, values in hits.items()}

    little, much = power(0.002), power(0.04)
    count = (COPY_COUNT, "correlation", "pooled")
    assert little[count] < 0.2 and much[count] > 0.9
    assert power(0.01)[COPY_COUNT, AGREEMENT, "pooled"] > 0.9
    assert all(much[key] >= little[key] for key in much)
