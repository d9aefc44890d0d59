"""The split: by patient, of the drawn shares, usable when the cohort is tiny, the same for every user."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import DataError
from pipeline.ingest.reading.worker import draw
from pipeline.ingest.splitting.splits import (
    AUDIT_IN,
    AUDIT_NONE,
    AUDIT_OUT,
    HOLDOUT,
    TEST,
    TRAIN,
    VAL,
    drawn_sides,
)
from tests.pipeline.ingest.splitting.cohorts_to_split import DEFAULTS, draws_of, split


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 1)), min_size=40, max_size=120), st.integers(0, 9)
)
def test_no_patient_stands_on_two_sides_and_audit_roles_fit_their_side(
    scans: list[tuple[int, int]], seed: int
) -> None:
    scans += [(31, 0), (32, 0), (33, 1), (34, 1)]
    order = {group: number for number, group in enumerate(dict.fromkeys(g for g, _ in scans))}
    groups = np.array([order[group] for group, _ in scans])
    made = split(groups, np.array([label for _, label in scans]), seed=seed)
    for group in range(len(order)):
        assert len(set(made.side[groups == group])) == 1
        assert len(set(made.audit[groups == group])) == 1
    assert set(made.side[made.audit == AUDIT_IN]) <= {TRAIN}
    assert set(made.side[made.audit == AUDIT_OUT]) <= {HOLDOUT}


def test_the_drawn_shares_are_kept_and_the_coin_is_fair() -> None:
    side, audit = drawn_sides(draws_of(20_000, seed=1), DEFAULTS, draw_test=True)

    def share(wanted: int, role: int) -> float:
        return float(((side == wanted) & (audit == role)).mean())

    assert share(TEST, AUDIT_NONE) == pytest.approx(0.15, abs=0.01)
    assert share(VAL, AUDIT_NONE) == pytest.approx(0.10, abs=0.01)
    assert share(HOLDOUT, AUDIT_NONE) == pytest.approx(0.10, abs=0.01)
    assert share(TRAIN, AUDIT_IN) == pytest.approx(0.05, abs=0.006)
    assert share(HOLDOUT, AUDIT_OUT) == pytest.approx(0.05, abs=0.006)
    assert TEST not in drawn_sides(draws_of(2_000), DEFAULTS, draw_test=False)[0]


def test_seed_and_dataset_give_other_draws_and_the_key_has_no_part(monkeypatch: pytest.MonkeyPatch) -> None:
    first = draw(0, "d", "p")
    monkeypatch.setenv("PHOSPHOR_KEY", "11" * 32)
    assert draw(0, "d", "p") == first
    assert len({first, draw(1, "d", "p"), draw(0, "e", "p"), draw(0, "d", "q")}) == 4


@settings(max_examples=60)
@given(st.integers(4, 9), st.integers(4, 9), st.integers(0, 500))
def test_a_tiny_cohort_has_every_class_in_every_split(first: int, second: int, seed: int) -> None:
    labels = np.array([0] * first + [1] * second)
    made = split(np.arange(len(labels)), labels, seed=seed)
    for label in (0, 1):
        assert set(made.side[labels == label]) == {TRAIN, VAL, TEST, HOLDOUT}


@settings(max_examples=40)
@given(st.integers(2, 3), st.integers(0, 300), st.sampled_from([0.0, 0.1, 1.0]))
def test_with_too_few_patients_train_and_test_come_first_and_none_is_an_audit_member(
    count: int, seed: int, tolerance: float
) -> None:
    labels = np.array([0] * count + [1] * 20)
    made = split(np.arange(count + 20), labels, seed=seed, stratify_tolerance=tolerance)
    assert set(made.side[:count]) == set([TRAIN, TEST, HOLDOUT][:count])
    assert (made.audit[:count] == AUDIT_NONE).all()


@settings(max_examples=30)
@given(st.integers(0, 300))
def test_24_patients_have_a_holdout_of_their_share(seed: int) -> None:
    labels = np.arange(24) % 2
    made = split(np.arange(24), labels, seed=seed)
    for label in (0, 1):
        held = int(((made.side == HOLDOUT) & (labels == label)).sum())
        assert abs(held - 0.15 * 12) <= 1
        assert 1 <= int(((made.audit != AUDIT_NONE) & (labels == label)).sum()) <= 2


@settings(max_examples=30)
@given(st.integers(4, 60), st.integers(0, 300))
def test_patients_who_all_have_both_classes_are_split_like_one_class(count: int, seed: int) -> None:
    groups = np.repeat(np.arange(count), 2)
    made = split(groups, np.tile([0, 1], count), seed=seed)
    assert set(made.side) == {TRAIN, VAL, TEST, HOLDOUT}
    assert (made.side[::2] == made.side[1::2]).all()


def test_patients_weigh_alike_however_many_scans_they_have() -> None:
    counts = np.where(np.arange(200) % 20 == 0, 100, 1)
    groups = np.repeat(np.arange(200), counts)
    many = split(groups, (groups // 2) % 2)
    one = split(np.arange(200), (np.arange(200) // 2) % 2)
    first = np.unique(groups, return_index=True)[1]
    assert (many.side[first] == one.side).all()
    assert (many.audit[first] == one.audit).all()
    assert many.moved == one.moved


def test_a_kept_test_part_stays_and_nothing_else_joins_it() -> None:
    kept = np.arange(65) < 5
    made = split(np.arange(65), np.arange(65) % 2, kept=kept)
    assert ((made.side == TEST) == kept).all()
    for label in (0, 1):
        pool = ~kept & (np.arange(65) % 2 == label)
        assert abs(int((made.side[pool] == HOLDOUT).sum()) - 0.15 * 30) <= 1


@pytest.mark.parametrize("count", [12, 200])
def test_a_share_of_nought_gives_an_empty_split_but_for_the_test_that_evaluation_needs(count: int) -> None:
    labels = np.arange(count) % 2
    nought = {"val_share": 0.0, "test_share": 0.0, "holdout_share": 0.0, "audit_share": 0.0}
    made = split(np.arange(count), labels, **nought)
    assert set(made.side) == {TRAIN, TEST}
    assert int((made.side == TEST).sum()) == 2
    assert (made.audit == AUDIT_NONE).all()
    held = split(np.arange(count), labels, val_share=0.0, holdout_share=0.0)
    assert VAL not in held.side
    assert HOLDOUT in held.side
    no_audit = split(np.arange(count), labels, audit_share=0.0)
    assert (no_audit.audit == AUDIT_NONE).all()
    assert HOLDOUT in no_audit.side


@pytest.mark.parametrize("labels", [[0, *[1] * 9], [1] * 10, [0, 0, *[1] * 8]])
def test_a_class_with_one_image_or_one_patient_is_named(labels: list[int]) -> None:
    groups = [0, 0, *range(1, 9)] if labels[:2] == [0, 0] else [*range(10)]
    with pytest.raises(DataError, match="class a") as caught:
        split(np.array(groups), np.array(labels))
    assert "leave it out" in str(caught.value)
    assert caught.value.exit_code == 3
