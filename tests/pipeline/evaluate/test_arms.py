"""Arms hold the images they say they hold."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from models.evaluation.augmentation import LIGHT, Augmentation
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.release import read_release
from pipeline.evaluate.arm_names import REAL_ARMS, SYNTHETIC_ARMS
from pipeline.evaluate.arms import (
    Arm,
    Pool,
    at_budgets,
    confirmed,
    first_arms,
    later_arms,
    training_sets,
    with_confirmed,
)
from pipeline.evaluate.trained import Sets, classifier_seeds
from pipeline.evaluate.truth import Question

NAMES = ("normal", "pneumonia")
CLASSES = Question(NAMES)
ALL = (*REAL_ARMS, *SYNTHETIC_ARMS)


def later(
    real: list[int], made: list[int], ratios: list[float], names: tuple[str, ...] = ALL
) -> tuple[list[Arm], list[str]]:
    return later_arms(
        real, made, in_groups=[0] * len(real), names=names, ratios=ratios, classes=NAMES, augmentation=LIGHT
    )


@pytest.fixture
def pools(cohort: Path, release: Path) -> tuple[Pool, Pool]:
    images = read_release(release, opened := Cohort(cohort))
    sets = Sets.of(opened, Pool(images.labels, images.take))
    return sets.real, sets.synthetic


def test_the_first_arms_are_real_images_augmented_in_different_ways() -> None:
    arms = first_arms([100, 400], ALL, [1.0, 0.5])
    assert [(arm.key, arm.balanced, arm.augmentation.words) for arm in arms] == [
        ("real", False, "none"),
        ("real_balanced", True, "none"),
        ("real_augmented", True, "light"),
        ("real_strong-0.5", True, "strong 0.5"),
        ("real_strong-1", True, "strong 1"),
    ]
    assert all(arm.num_real == (100, 400) and not sum(arm.num_synthetic) for arm in arms)
    assert [arm.name for arm in first_arms([1, 1], ("real", "synthetic"), [1.0])] == ["real"]


def test_the_plan_holds_each_arm_once_with_its_counts() -> None:
    arms, notes = later([100, 400], [400, 400], [0.5, 1.0])
    assert [(arm.key, sum(arm.num_real), sum(arm.num_synthetic)) for arm in arms] == [
        ("real_duplicated-0.5", 750, 0),
        ("real_synthetic-0.5", 500, 250),
        ("agreeing-0.5", 500, 250),
        ("uncertain-0.5", 500, 250),
        ("real_duplicated-1", 1000, 0),
        ("real_synthetic-1", 500, 500),
        ("agreeing-1", 500, 500),
        ("uncertain-1", 500, 500),
        ("pretrained", 500, 800),
        ("balancing", 500, 300),
        ("synthetic", 0, 800),
    ]
    assert notes == ["balancing_groups: not trained, because there are no images that fill anything up"]
    assert all(arm.balanced and arm.augmentation == LIGHT for arm in arms)


def test_every_mixed_arm_has_a_rival_with_as_many_duplicates() -> None:
    arms, _ = later([100, 400], [900, 3000], [0.25, 1.0, 5.0])
    by_key = {arm.key: arm for arm in arms}
    for ratio in ("0.25", "1", "5"):
        mixed, rival = by_key[f"real_synthetic-{ratio}"], by_key[f"real_duplicated-{ratio}"]
        together = tuple(a + b for a, b in zip(mixed.num_real, mixed.num_synthetic, strict=True))
        assert rival.num_real == together


def test_weighting_repeats_real_images_to_the_number_of_synthetic_ones() -> None:
    arms, _ = later([10, 40], [100, 200], [0.5, 5.0])
    weighted = [arm for arm in arms if arm.name == "real_weighted"]
    assert [(arm.ratio, arm.num_real, arm.num_synthetic) for arm in weighted] == [(5.0, (50, 200), (50, 200))]


def test_the_rarer_class_alone_is_filled_up() -> None:
    [arm] = later([20, 400], [300, 300], [1.0], ("balancing",))[0]
    assert (arm.num_real, arm.num_synthetic) == ((20, 400), (300, 0))
    assert later([400, 400], [300, 300], [1.0], ("balancing",))[0] == []


def test_the_synthetic_share_is_the_same_in_each_class() -> None:
    arms, _ = later([100, 400], [400, 400], [0.5])
    mixed = next(arm for arm in arms if arm.name == "real_synthetic")
    assert mixed.num_synthetic == (50, 200)


def test_a_small_release_caps_the_ratio_and_says_so() -> None:
    arms, notes = later([100, 400], [100, 150], [0.25, 0.5, 1.0, 2.0])
    mixed = [arm.num_synthetic for arm in arms if arm.name == "real_synthetic"]
    assert mixed == [(25, 100), (50, 150), (100, 150)]
    assert any("pneumonia 150 of 200" in note for note in notes)
    assert any("ratio 2 adds nothing" in note for note in notes)


def test_a_release_without_a_class_cannot_train_alone() -> None:
    arms, notes = later([10, 10], [10, 0], [1.0])
    assert "synthetic" not in [arm.name for arm in arms]
    assert any("no image of pneumonia" in note for note in notes)


def test_every_arm_is_repeated_at_every_budget() -> None:
    arms = at_budgets(first_arms([10, 10], ("real", "real_strong"), [0.5]), [2.0, 0.5, 1.0, 2.0])
    assert [(arm.key, arm.budget) for arm in arms] == [
        ("real-x0.5", 0.5),
        ("real_strong-0.5-x0.5", 0.5),
        ("real", 1.0),
        ("real_strong-0.5", 1.0),
        ("real-x2", 2.0),
        ("real_strong-0.5-x2", 2.0),
    ]
    assert arms[-1].words.endswith("(strength 0.5, 2 times the steps)")


def test_training_sets_hold_exactly_the_planned_images(pools: tuple[Pool, Pool]) -> None:
    real, made = pools
    known = {image.tobytes() for image in real.load(np.arange(len(real)))}
    drawn = {image.tobytes() for image in made.load(np.arange(len(made)))}
    every = confirmed(made.labels, made.labels, np.eye(2)[made.labels], seed=0)
    arms = [*first_arms([40, 40], ALL, [1.0]), *later([40, 40], [60, 60], [0.5, 1.0])[0]]
    for arm in arms:
        parts = training_sets(arm, real, made, seed=3, question=CLASSES, chosen=every)
        assert len(parts) == (2 if arm.name == "pretrained" else 1)
        images = np.concatenate([part[0] for part in parts])
        labels = np.concatenate([part[1] for part in parts])
        for label in (0, 1):
            assert (labels == label).sum() == arm.num_real[label] + arm.num_synthetic[label]
        stored = [image.tobytes() for image in images]
        assert sum(one in known for one in stored) == sum(arm.num_real)
        synthetic = [one for one in stored if one in drawn]
        assert len(synthetic) == len(set(synthetic)) == sum(arm.num_synthetic)


def test_pre_training_sees_synthetic_images_first_and_real_ones_last(pools: tuple[Pool, Pool]) -> None:
    real, made = pools
    arm = Arm("pretrained", None, (40, 40), (60, 60), LIGHT)
    first, second = training_sets(arm, real, made, seed=0, question=CLASSES)
    assert (len(first[0]), len(second[0])) == (120, 80)
    assert {image.tobytes() for image in second[0]} == {
        image.tobytes() for image in real.load(np.arange(len(real)))
    }


def test_choosing_takes_confirmed_images_and_the_least_certain_of_them_first(
    pools: tuple[Pool, Pool],
) -> None:
    real, made = pools
    certainty = np.linspace(0.51, 0.99, len(made))
    own = np.where(np.arange(len(made)) % 2 == 0, certainty, 1 - certainty)
    read = np.stack([np.where(made.labels == 0, own, 1 - own), np.where(made.labels == 1, own, 1 - own)], 1)
    chosen = confirmed(made.labels, made.labels, read, seed=1)
    for label in (0, 1):
        rows = np.flatnonzero((made.labels == label) & (np.arange(len(made)) % 2 == 0))
        assert set(chosen.order[label]) == set(rows)
        assert chosen.uncertain[label].tolist() == rows.tolist()
    arm = Arm("uncertain", 0.25, (40, 40), (10, 10), Augmentation("none"))
    [(images, _)] = training_sets(arm, real, made, seed=0, question=CLASSES, chosen=chosen)
    wanted = made.load(np.concatenate([chosen.uncertain[label][:10] for label in (0, 1)]))
    assert {image.tobytes() for image in wanted} <= {image.tobytes() for image in images}


def test_an_arm_of_confirmed_images_has_as_many_as_are_confirmed(pools: tuple[Pool, Pool]) -> None:
    _, made = pools
    chosen = confirmed(made.labels, made.labels, np.eye(2)[np.zeros_like(made.labels)], seed=0)
    arms, _ = later([40, 40], [60, 60], [0.5, 1.0])
    kept, notes = with_confirmed(arms, chosen)
    counts = {arm.key: arm.num_synthetic for arm in kept if arm.name in ("agreeing", "uncertain")}
    assert counts == {
        "agreeing-0.5": (20, 0),
        "uncertain-0.5": (20, 0),
        "agreeing-1": (40, 0),
        "uncertain-1": (40, 0),
    }
    assert not notes and len(kept) == len(arms)
    nothing = confirmed(made.labels, made.labels, np.eye(2)[1 - made.labels], seed=0)
    kept, notes = with_confirmed(arms, nothing)
    assert not any(arm.name in ("agreeing", "uncertain") for arm in kept)
    assert notes[0] == "agreeing-0.5: not trained, because too few images are confirmed" and len(notes) == 4


def test_duplicates_hold_every_real_image_once_before_any_twice(pools: tuple[Pool, Pool]) -> None:
    arm = Arm("real_duplicated", 1.0, (100, 60), (0, 0), LIGHT)
    [(x, y)] = training_sets(arm, *pools, seed=0, question=CLASSES)
    for label, expected in ((0, {2, 3}), (1, {1, 2})):
        _, counts = np.unique(x[y == label].reshape((y == label).sum(), -1), axis=0, return_counts=True)
        assert len(counts) == 40
        assert set(counts.tolist()) == expected


def test_each_classifier_seed_draws_its_own_synthetic_images(pools: tuple[Pool, Pool]) -> None:
    arm = Arm("synthetic", None, (0, 0), (30, 30), LIGHT)
    first, again, other = (training_sets(arm, *pools, seed=s, question=CLASSES)[0][0] for s in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


@pytest.mark.parametrize("seed", [0, 1, 12345])
def test_classifier_seeds_are_distinct_and_extendable(seed: int) -> None:
    assert len(set(classifier_seeds(seed, 50))) == 50
    assert classifier_seeds(seed, 50)[:5] == classifier_seeds(seed, 5)
    assert not set(classifier_seeds(seed, 50)) & set(classifier_seeds(seed + 1, 50))
