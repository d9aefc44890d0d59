"""The split: by patient, stable when patients arrive, usable when the cohort is tiny."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.ingest.duplicates import Duplicates, find_duplicates, joined_patients, pattern_counts
from pipeline.ingest.published import shared_patients
from pipeline.ingest.settings import IngestSettings
from pipeline.ingest.splits import (
    AUDIT_IN,
    AUDIT_OUT,
    HOLDOUT,
    TEST,
    TRAIN,
    VAL,
    Split,
    drawn_side,
    split_scans,
)
from pipeline.ingest.worker import draw

SETTINGS = IngestSettings()


def split(groups: list[int], labels: list[int], *, seed: int = 0, kept: list[bool] | None = None) -> Split:
    keeps = kept is not None
    draws = [draw(seed, "d", str(group)) for group in range(max(groups) + 1)]
    return split_scans(
        np.array(groups),
        draws,
        np.array(labels),
        kept_test=np.array(kept if kept is not None else [False] * len(groups)),
        classes=("a", "b"),
        settings=SETTINGS,
        keeps_test=keeps,
    )


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 1)), min_size=40, max_size=120), st.integers(0, 9)
)
def test_no_patient_stands_on_two_sides_and_audit_roles_fit_their_side(
    scans: list[tuple[int, int]], seed: int
) -> None:
    scans += [(31, 0), (32, 0), (33, 1), (34, 1)]
    order = {group: number for number, group in enumerate(dict.fromkeys(g for g, _ in scans))}
    groups = np.array([order[group] for group, _ in scans])
    made = split(groups.tolist(), [label for _, label in scans], seed=seed)
    for group in range(len(order)):
        assert len(set(made.side[groups == group])) == 1
        assert len(set(made.audit[groups == group])) == 1
    assert set(made.side[made.audit == AUDIT_IN]) <= {TRAIN}
    assert set(made.side[made.audit == AUDIT_OUT]) <= {HOLDOUT}


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.integers(1, 300))
def test_a_patient_keeps_its_side_when_others_arrive(seed: int, arriving: int) -> None:
    before = split([*range(300)], [g % 2 for g in range(300)], seed=seed)
    after = split([*range(300 + arriving)], [g % 2 for g in range(300 + arriving)], seed=seed)
    assert before.moved == after.moved == 0
    assert (after.side[:300] == before.side).all()
    assert (after.audit[:300] == before.audit).all()


def test_the_shares_are_kept_and_the_coin_is_fair() -> None:
    sides = [drawn_side(draw(1, "d", str(p)), SETTINGS, draw_test=True) for p in range(20_000)]
    share = {key: count / 20_000 for key, count in Counter(sides).items()}
    assert share[TEST, 0] == pytest.approx(0.15, abs=0.01)
    assert share[VAL, 0] == pytest.approx(0.10, abs=0.01)
    assert share[HOLDOUT, 0] == pytest.approx(0.10, abs=0.01)
    assert share[TRAIN, AUDIT_IN] == pytest.approx(0.05, abs=0.006)
    assert share[HOLDOUT, AUDIT_OUT] == pytest.approx(0.05, abs=0.006)
    kept = {drawn_side(draw(1, "d", str(p)), SETTINGS, draw_test=False)[0] for p in range(2_000)}
    assert TEST not in kept


def test_seed_and_dataset_give_other_draws_and_the_key_has_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    first = draw(0, "d", "p")
    monkeypatch.setenv("PHOSPHOR_KEY", "11" * 32)
    assert draw(0, "d", "p") == first
    assert len({first, draw(1, "d", "p"), draw(0, "e", "p"), draw(0, "d", "q")}) == 4


@settings(deadline=None, max_examples=60)
@given(st.integers(4, 9), st.integers(4, 9), st.integers(0, 500))
def test_a_tiny_cohort_has_every_class_in_every_split(first: int, second: int, seed: int) -> None:
    labels = [0] * first + [1] * second
    made = split([*range(len(labels))], labels, seed=seed)
    for label in (0, 1):
        assert set(made.side[np.array(labels) == label]) == {TRAIN, VAL, TEST, HOLDOUT}


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 3), st.integers(0, 300))
def test_with_too_few_patients_train_and_test_come_first(count: int, seed: int) -> None:
    made = split([*range(count + 20)], [0] * count + [1] * 20, seed=seed)
    sides = set(made.side[:count])
    assert {TRAIN, TEST} <= sides


def test_a_kept_test_part_stays_and_nothing_else_joins_it() -> None:
    kept = [True] * 5 + [False] * 60
    made = split([*range(65)], [n % 2 for n in range(65)], kept=kept)
    assert (made.side == TEST).tolist() == kept


@pytest.mark.parametrize("labels", [[0, *[1] * 9], [1] * 10, [0, 0, *[1] * 8]])
def test_a_class_with_one_image_or_one_patient_is_named(labels: list[int]) -> None:
    groups = [0, 0, *range(1, 9)] if labels[:2] == [0, 0] else [*range(10)]
    with pytest.raises(DataError, match="class a") as caught:
        split(groups, labels)
    assert "leave it out" in str(caught.value)
    assert caught.value.exit_code == 3


def test_exact_duplicates_join_their_patients_and_are_counted_by_part() -> None:
    hashes = np.array([b"a", b"b", b"a", b"c", b"c", b"d"], dtype="S16").view("V16")
    labels = np.array([0, 0, 1, 1, 1, 0])
    found = find_duplicates(hashes, labels)
    assert (found.num_groups, found.conflicting) == (2, 1)
    assert pattern_counts(found, ["train", "train", "val", "test", "test", "val"]) == {
        "test": 1,
        "train-val": 1,
    }
    groups = joined_patients(np.array([0, 1, 2, 3, 4, 1]), found, np.ones(6, dtype=bool))
    assert groups.tolist() == [0, 1, 0, 2, 2, 1]
    alone = Duplicates(found.group, np.ones(6, dtype=np.int64), 0, 0)
    assert len(set(joined_patients(np.array([0, 1, 2, 3, 4, 1]), alone, np.ones(6, dtype=bool)))) == 5


def test_shared_patients_are_counted_by_pair_and_unknown_ones_are_not() -> None:
    parts = ["train", "train", "val", "val", "test", ""]
    shared = shared_patients("official", parts, np.array([0, 1, 1, -1, 0, 1]))
    assert shared.pairs == {("train", "val"): 1, ("train", "test"): 1, ("val", "test"): 0}
    assert "official: 1 patients stand in both train and val" in shared.notes()[0]
