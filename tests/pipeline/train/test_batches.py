"""Batches are a pure function of seed and step, and cover the train split fairly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.noise import stream_seed
from pipeline.arrays import Ints
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.conditions import CohortConditions
from pipeline.errors import DataError
from pipeline.records import CohortRef
from pipeline.train.batches import BatchPlan
from pipeline.train.latent.sources import PixelSource
from pipeline.train.prefetch import scans_of
from tests.cohorts import write_cohort


def plan(cohort: Cohort, *, seed: int = 0, balance: float = 0.0, size: int = 16) -> BatchPlan:
    return BatchPlan(cohort, batch_size=size, class_balance=balance, seed=seed)


@pytest.fixture(scope="module")
def cohort(tiny_cohort_16: CohortRef) -> Cohort:
    return Cohort(tiny_cohort_16.path)


def test_a_step_is_the_same_whatever_was_drawn_before(cohort: Cohort) -> None:
    forward, direct = plan(cohort, balance=0.5), plan(cohort, balance=0.5)
    drawn = [forward.rows(step) for step in range(30)]
    for step in (29, 3, 17):
        assert np.array_equal(direct.rows(step), drawn[step])


def test_seeds_give_different_batches(cohort: Cohort) -> None:
    assert not np.array_equal(plan(cohort, seed=1).rows(0), plan(cohort, seed=2).rows(0))


def test_one_pass_shows_every_train_scan_once_and_no_other(cohort: Cohort) -> None:
    train = cohort.rows("train")
    batches = plan(cohort, size=len(train))
    first, second = batches.rows(0), batches.rows(1)
    assert np.array_equal(np.sort(first), train)
    assert np.array_equal(np.sort(second), train)
    assert not np.array_equal(first, second)


def test_balance_evens_out_the_classes(tmp_path: Path) -> None:
    labels = np.array([0] * 180 + [1] * 20)
    pixels = np.random.default_rng(0).integers(0, 256, (200, 1, 16, 16), dtype=np.uint8)
    uneven = Cohort(write_cohort(tmp_path / "c", pixels=pixels, labels=labels, shares=(1, 0, 0, 0)).path)
    shares = []
    for balance in (0.0, 0.5, 1.0):
        rows = np.concatenate([plan(uneven, balance=balance).rows(step) for step in range(100)])
        shares.append(float((labels[rows] == 1).mean()))
    assert shares == pytest.approx([0.1, 0.3, 0.5], abs=0.04)


def test_a_class_without_train_scans_is_named(tmp_path: Path) -> None:
    reference = write_cohort(
        tmp_path / "c",
        pixels=np.arange(2560, dtype=np.uint16).astype(np.uint8).reshape(10, 1, 16, 16),
        labels=np.array([0] * 8 + [2] * 2),
        classes=("disc", "line", "ring"),
        shares=(1, 0, 0, 0),
    )
    with pytest.raises(DataError, match="line"):
        plan(Cohort(reference.path))


@pytest.mark.parametrize("size", [7, 64, 300])
def test_batches_follow_the_passes_whatever_their_size(cohort: Cohort, size: int) -> None:
    train = cohort.rows("train")
    passes = [
        np.random.Generator(np.random.PCG64(stream_seed(5, "pass", number))).permutation(train)
        for number in range(1 + 3 * size // len(train))
    ]
    whole = np.concatenate(passes)
    drawn = plan(cohort, seed=5, size=size)
    for step in (0, 2, 1):
        assert np.array_equal(drawn.rows(step), whole[step * size : (step + 1) * size])


@pytest.fixture(scope="module")
def multi_label(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    number = np.arange(400)
    reference = write_cohort(
        tmp_path_factory.mktemp("multi") / "cohort",
        pixels=np.random.default_rng(0).integers(0, 256, (400, 1, 8, 8), dtype=np.uint8),
        labels=np.where(number < 40, 0, 1),
        classes=("mass", "no_finding"),
        shares=(1, 0, 0, 0),
        attributes={"sex": np.where(number % 2, "M", "F").tolist()},
        findings={"mass": (number < 40).astype(int), "hernia": (number < 4).astype(int)},
    )
    return Cohort(reference.path)


class Drawn:
    def rows(self, step: int) -> Ints:
        return np.array([399, 2, 5, 40])


def test_a_process_gathers_images_and_codes_of_its_share_of_a_batch(multi_label: Cohort) -> None:
    conditions, source = CohortConditions(multi_label, ("sex", "findings")), PixelSource(multi_label)
    images, codes = scans_of(Drawn(), source, conditions, slice(1, 4))(0)
    assert np.array_equal(images, multi_label.images(np.array([2, 5, 40])))
    assert codes.tolist() == [[0, 0, 1, 1], [0, 1, 0, 1], [1, 0, 0, 0]]


def test_balance_by_findings_draws_each_finding_and_none_equally_often(multi_label: Cohort) -> None:
    balanced = BatchPlan(multi_label, batch_size=64, class_balance=1.0, balance_by="findings", seed=0)
    rows = np.concatenate([balanced.rows(step) for step in range(60)])
    # Three groups: mass (40 scans), hernia (4 of these), none (360).
    assert float((rows >= 40).mean()) == pytest.approx(1 / 3, abs=0.03)
    assert float((rows < 4).mean()) == pytest.approx(1 / 3 + 1 / 30, abs=0.03)
    assert len(np.unique(rows[rows < 40])) == 40


def test_balance_by_findings_needs_findings(cohort: Cohort) -> None:
    with pytest.raises(DataError, match="no findings"):
        BatchPlan(cohort, batch_size=8, class_balance=0.5, balance_by="findings", seed=0)
