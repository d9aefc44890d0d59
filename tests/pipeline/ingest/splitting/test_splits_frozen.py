"""A patient of an earlier cohort never changes side or audit role; images that link patients keep to that."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ingest.duplicates.duplicates import (
    Duplicates,
    beyond_exact,
    crossing_groups,
    find_duplicates,
    grouped,
    joined_patients,
    pair_counts,
    pattern_counts,
)
from pipeline.ingest.splitting.splits import (
    AUDIT_IN,
    AUDIT_NONE,
    AUDIT_OUT,
    HOLDOUT,
    TEST,
    TRAIN,
    UNKNOWN,
    VAL,
)
from tests.pipeline.ingest.splitting.cohorts_to_split import draws_of, rare_findings, split, violation

PLACES = np.array(
    [(TRAIN, 0), (VAL, 0), (TEST, 0), (HOLDOUT, 0), (TRAIN, AUDIT_IN), (HOLDOUT, AUDIT_OUT), (UNKNOWN, -1)]
)
PARTS = ["train", "train", "val", "test", "test", "val"]


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.integers(8, 120), st.sampled_from([0.0, 0.1, 1.0]), st.booleans())
def test_a_known_patient_never_moves_whatever_the_tolerance(
    seed: int, count: int, tolerance: float, keeps_test: bool
) -> None:
    rng = np.random.default_rng(seed)
    known = PLACES[rng.integers(0, len(PLACES), count)]
    labels, findings = np.arange(count) % 2, rare_findings(rng, count, np.array([0.3, 0.05]))
    kept = None
    if keeps_test:
        kept = rng.random(count) < 0.2
        kept &= known[:, 0] == UNKNOWN
        kept[:4] = [True, True, False, False]
        known[:2] = UNKNOWN
    made = split(
        np.arange(count),
        labels,
        kept=kept,
        draws=draws_of(count, seed=seed),
        findings=findings,
        known=(known[:, 0], known[:, 1]),
        stratify_tolerance=tolerance,
    )
    fixed = known[:, 0] != UNKNOWN
    assert (made.side[fixed] == known[fixed, 0]).all()
    assert (made.audit[fixed] == known[fixed, 1]).all()
    assert set(made.side[made.audit == AUDIT_IN]) <= {TRAIN}
    assert set(made.side[made.audit == AUDIT_OUT]) <= {HOLDOUT}
    if kept is not None:
        assert (made.side[kept] == TEST).all()
        assert not (made.side[~kept & ~fixed] == TEST).any()


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.integers(20, 80), st.integers(3, 200))
def test_patients_who_arrive_change_nobody_and_still_get_their_shares(
    seed: int, count: int, arriving: int
) -> None:
    rng = np.random.default_rng(seed)
    total = count + arriving
    # Those who arrive are of other classes and findings than those of before.
    labels = np.concatenate([np.arange(count) % 2, rng.integers(0, 3, arriving)])
    labels[-3:] = 2
    draws = draws_of(total + 3, seed=seed)
    groups = np.arange(total)
    before = split(groups[:count], labels[:count], draws=draws[:count])
    known = np.full((2, total), UNKNOWN)
    known[:, :count] = before.side, before.audit
    after = split(groups, labels, draws=draws[:total], known=(known[0], known[1]))
    assert (after.side[:count] == before.side).all()
    assert (after.audit[:count] == before.audit).all()
    if arriving > 2 * count and np.bincount(labels).min() >= 5:
        assert violation(after.side, labels) == 0
    again = split(groups, labels, draws=draws[:total], known=(after.side, after.audit))
    assert (again.side == after.side).all()
    assert (again.audit == after.audit).all()
    assert again.moved == 0


def test_the_repair_makes_up_for_known_patients_with_new_ones_only() -> None:
    # The earlier cohort put nobody into val; all newcomers that are needed there go there.
    labels = np.arange(200) % 2
    known = np.full((2, 200), UNKNOWN)
    known[0, :100], known[1, :100] = np.where(np.arange(100) % 5, TRAIN, HOLDOUT), AUDIT_NONE
    made = split(np.arange(200), labels, known=(known[0], known[1]))
    assert (made.side[:100] == known[0, :100]).all()
    assert violation(made.side, labels) == 0


def test_exact_duplicates_join_their_patients_and_are_counted_by_part() -> None:
    hashes = np.array([b"a", b"b", b"a", b"c", b"c", b"d"], dtype="S16").view("V16")
    labels = np.array([0, 0, 1, 1, 1, 0])
    found = find_duplicates(hashes, labels)
    assert (found.num_groups, found.conflicting) == (2, 1)
    assert pattern_counts(found, PARTS) == {"test": 1, "train-val": 1}
    parts = np.array([0, 0, 1, 2, 2, 1])
    assert pair_counts(found, parts, 3).tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 1]]
    patients, everyone = np.array([0, 1, 2, 3, 4, 1]), np.ones(6, dtype=bool)
    groups = joined_patients(patients, [found], everyone, draws=np.arange(5))
    assert groups.tolist() == [0, 1, 0, 2, 2, 1]
    apart = joined_patients(patients, [found], np.zeros(6, dtype=bool), draws=np.arange(5))
    assert apart.tolist() == [0, 1, 2, 3, 4, 1]
    assert joined_patients(patients, [], everyone, draws=np.arange(5)).tolist() == [0, 1, 2, 3, 4, 1]


def test_nothing_to_find_is_nothing_found() -> None:
    none = np.zeros(0, dtype=np.int64)
    found = find_duplicates(np.zeros(0, dtype="V16"), none)
    assert (found.num_groups, crossing_groups(found, none)) == (0, 0)
    assert pair_counts(found, none, 2).tolist() == [[0, 0], [0, 0]]
    assert joined_patients(none, [found], none.astype(bool), draws=none).tolist() == []


def test_several_groupings_join_and_equal_images_alone_are_no_near_duplicates() -> None:
    labels, rows = np.array([0, 0, 1, 0, 0, 0]), np.array([True] * 5 + [False])
    exact = grouped(np.array([0, 0, 1, 2, 3, 4]), labels)
    alike = grouped(np.array([0, 0, 1, 1, 2, 2]), labels)
    near = beyond_exact(alike, exact, labels, rows)
    assert (near.num_groups, near.conflicting) == (1, 1)
    assert near.size.tolist() == [0, 0, 2, 2, 0, 0]
    groups = joined_patients(np.arange(6), [exact, near], rows, draws=np.arange(6))
    assert groups.tolist() == [0, 0, 1, 1, 2, 3]
    assert beyond_exact(exact, exact, labels, rows).num_groups == 0


def test_patients_with_places_of_before_are_never_joined_across_and_newcomers_go_with_one() -> None:
    same = Duplicates(np.zeros(4, dtype=np.int64), np.full(4, 4), 1, 0)
    everyone = np.ones(4, dtype=bool)
    place = np.array([-1, 7, 7, 2])
    for draws in (np.array([0, 1, 2, 3]), np.array([3, 2, 1, 0]), np.array([2, 3, 1, 0])):
        groups = joined_patients(np.arange(4), [same], everyone, draws=draws, place=place)
        assert groups[0] in groups[1:]
        assert groups[3] not in groups[1:3]
        order = np.array([2, 0, 3, 1])
        turned = joined_patients(order, [same], everyone, draws=draws, place=place)
        expected = groups[order]
        assert ((turned[:, None] == turned[None]) == (expected[:, None] == expected[None])).all()
    assert crossing_groups(same, np.array([TRAIN, TRAIN, TRAIN, HOLDOUT])) == 1
    assert crossing_groups(same, np.array([TRAIN, TRAIN, TRAIN, -1])) == 0


@settings(max_examples=40)
@given(st.integers(0, 10_000))
def test_joining_depends_on_no_order_and_never_ties_two_places(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scans, count = 60, 30
    patients = np.concatenate([np.arange(count), rng.integers(0, count, scans - count)])
    labels = np.zeros(scans, dtype=np.int64)
    exact, near = (grouped(rng.integers(0, 45, scans), labels) for _ in range(2))
    draws = rng.permutation(count)
    place = np.where(rng.random(count) < 0.4, rng.integers(0, 3, count), -1)
    use = np.ones(scans, dtype=bool)
    first = joined_patients(patients, [exact, near], use, draws=draws, place=place)
    for group in range(first.max() + 1):
        assert len(set(place[patients[first == group]]) - {-1}) <= 1
    order = rng.permutation(scans)
    names = rng.permutation(45)
    turned = [Duplicates(names[found.group][order], found.size[order], 0, 0) for found in (exact, near)]
    number = rng.permutation(count)
    was = np.argsort(number)
    second = joined_patients(number[patients][order], turned, use, draws=draws[was], place=place[was])
    back = np.empty_like(second)
    back[order] = second
    assert ((first[:, None] == first[None]) == (back[:, None] == back[None])).all()
