"""Batches are a pure function of seed and step, and cover the train split fairly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.cohort import Cohort
from pipeline.errors import DataError
from pipeline.records import CohortRef
from pipeline.train.batches import Batch, BatchPlan, load_batch
from tests.cohorts import write_cohort


def plan(
    cohort: Cohort, *, seed: int = 0, balance: float = 0.0, flip: bool = False, size: int = 16
) -> BatchPlan:
    return BatchPlan(cohort, batch_size=size, class_balance=balance, horizontal_flip=flip, seed=seed)


@pytest.fixture(scope="module")
def cohort(tiny_cohort_16: CohortRef) -> Cohort:
    return Cohort(tiny_cohort_16.path)


def test_a_step_is_the_same_whatever_was_drawn_before(cohort: Cohort) -> None:
    forward, direct = plan(cohort, balance=0.5, flip=True), plan(cohort, balance=0.5, flip=True)
    drawn = [forward.batch(step) for step in range(30)]
    for step in (29, 3, 17):
        again = direct.batch(step)
        assert np.array_equal(again.rows, drawn[step].rows)
        assert np.array_equal(again.flipped, drawn[step].flipped)


def test_seeds_give_different_batches(cohort: Cohort) -> None:
    assert not np.array_equal(plan(cohort, seed=1).batch(0).rows, plan(cohort, seed=2).batch(0).rows)


def test_one_pass_shows_every_train_scan_once_and_no_other(cohort: Cohort) -> None:
    train = cohort.rows("train")
    batches = plan(cohort, size=len(train))
    first, second = batches.batch(0).rows, batches.batch(1).rows
    assert np.array_equal(np.sort(first), train)
    assert np.array_equal(np.sort(second), train)
    assert not np.array_equal(first, second)


def test_balance_evens_out_the_classes(tmp_path: Path) -> None:
    labels = np.array([0] * 180 + [1] * 20)
    pixels = np.random.default_rng(0).integers(0, 256, (200, 1, 16, 16), dtype=np.uint8)
    uneven = Cohort(write_cohort(tmp_path / "c", pixels=pixels, labels=labels, shares=(1, 0, 0, 0)).path)
    shares = []
    for balance in (0.0, 0.5, 1.0):
        rows = np.concatenate([plan(uneven, balance=balance).batch(step).rows for step in range(100)])
        shares.append(float((labels[rows] == 1).mean()))
    assert shares == pytest.approx([0.1, 0.3, 0.5], abs=0.04)


def test_flipped_scans_are_mirrored_and_the_others_are_not(cohort: Cohort) -> None:
    rows = cohort.rows("train")[:2]
    images, codes = load_batch(cohort, Batch(rows, np.array([True, False])))
    stored = cohort.images(rows)
    assert np.array_equal(images[0], stored[0][..., ::-1])
    assert np.array_equal(images[1], stored[1])
    assert np.array_equal(codes, cohort.labels[rows][:, None])
    flipped = np.concatenate([plan(cohort, flip=True).batch(step).flipped for step in range(60)])
    assert float(flipped.mean()) == pytest.approx(0.5, abs=0.06)
    assert not plan(cohort).batch(0).flipped.any()


def test_a_class_without_train_scans_is_named(tmp_path: Path) -> None:
    reference = write_cohort(
        tmp_path / "c",
        pixels=np.arange(2560, dtype=np.uint16).astype(np.uint8).reshape(10, 1, 16, 16),
        labels=np.array([0] * 8 + [2] * 2),
        classes=("disc", "bar", "ring"),
        shares=(1, 0, 0, 0),
    )
    with pytest.raises(DataError, match="bar"):
        plan(Cohort(reference.path))
