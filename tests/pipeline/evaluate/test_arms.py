"""Arms hold the images they say they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.release import read_release
from pipeline.evaluate.arms import Arm, plan_arms, training_set
from pipeline.evaluate.trained import classifier_seeds

NAMES = ("normal", "pneumonia")


def test_the_plan_holds_each_arm_once_with_its_counts():
    arms, notes = plan_arms([100, 400], [400, 400], [0.25, 0.5, 1.0], NAMES)
    assert [(arm.key, sum(arm.num_real), sum(arm.num_synthetic)) for arm in arms] == [
        ("real", 500, 0),
        ("real_augmented", 500, 0),
        ("real_duplicated-1", 1000, 0),
        ("real_synthetic-0.25", 500, 125),
        ("real_synthetic-0.5", 500, 250),
        ("real_synthetic-1", 500, 500),
        ("synthetic", 0, 800),
    ]
    assert notes == []
    assert [arm.augmented for arm in arms] == [False, *[True] * 6]


def test_the_synthetic_share_is_the_same_in_each_class():
    arms, _ = plan_arms([100, 400], [400, 400], [0.5], NAMES)
    mixed = next(arm for arm in arms if arm.name == "real_synthetic")
    assert mixed.num_synthetic == (50, 200)


def test_a_small_release_caps_the_ratio_and_says_so():
    arms, notes = plan_arms([100, 400], [100, 150], [0.25, 0.5, 1.0, 2.0], NAMES)
    mixed = [arm.num_synthetic for arm in arms if arm.name == "real_synthetic"]
    assert mixed == [(25, 100), (50, 150), (100, 150)]
    assert any("pneumonia 150 of 200" in note for note in notes)
    assert any("ratio 2 adds nothing" in note for note in notes)
    duplicated = next(arm for arm in arms if arm.name == "real_duplicated")
    assert duplicated.num_real == (200, 550)


def test_a_release_without_a_class_cannot_train_alone():
    arms, notes = plan_arms([10, 10], [10, 0], [1.0], NAMES)
    assert "synthetic" not in [arm.name for arm in arms]
    assert any("no image of pneumonia" in note for note in notes)


def test_training_sets_hold_exactly_the_planned_images(cohort: Path, release: Path):
    opened = Cohort(cohort)
    images = read_release(release, opened)
    train = opened.take(opened.rows("train"))
    real = {pixels.tobytes() for pixels in train}
    synthetic = {pixels.tobytes() for pixels in images.pixels}
    arms, _ = plan_arms([40, 40], [60, 60], [0.5, 1.0], ("plain", "striped"))
    for arm in arms:
        x, y = training_set(arm, opened, images, seed=3)
        assert len(x) == sum(arm.num_real) + sum(arm.num_synthetic)
        for label in (0, 1):
            assert (y == label).sum() == arm.num_real[label] + arm.num_synthetic[label]
        stored = [np.rint((image + 1) * 127.5).astype(np.uint8).tobytes() for image in x]
        assert sum(one in real for one in stored) == sum(arm.num_real)
        drawn = [one for one in stored if one in synthetic]
        assert len(drawn) == len(set(drawn)) == sum(arm.num_synthetic)


def test_duplicates_hold_every_real_image_once_before_any_twice(cohort: Path, release: Path):
    opened = Cohort(cohort)
    arm = Arm("real_duplicated", 1.0, (100, 60), (0, 0))
    x, y = training_set(arm, opened, read_release(release, opened), seed=0)
    for label, expected in ((0, {2, 3}), (1, {1, 2})):
        _, counts = np.unique(x[y == label].reshape((y == label).sum(), -1), axis=0, return_counts=True)
        assert len(counts) == 40
        assert set(counts.tolist()) == expected


def test_each_classifier_seed_draws_its_own_synthetic_images(cohort: Path, release: Path):
    opened = Cohort(cohort)
    images = read_release(release, opened)
    arm = Arm("synthetic", None, (0, 0), (30, 30))
    first, again, other = (training_set(arm, opened, images, seed=s)[0] for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_classifier_seeds_are_distinct_and_extendable(seed: int):
    assert len(set(classifier_seeds(seed, 50))) == 50
    assert classifier_seeds(seed, 50)[:5] == classifier_seeds(seed, 5)
    assert not set(classifier_seeds(seed, 50)) & set(classifier_seeds(seed + 1, 50))
