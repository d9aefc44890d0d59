"""Subgroups by attributes: the rarer ones are filled up with synthetic images of the same attributes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from models.evaluation.augmentation import LIGHT
from pipeline.artifacts.candidates import requested_of
from pipeline.artifacts.cohort import UNKNOWN, Cohort
from pipeline.evaluate.arms import Pool, later_arms, missing_in_groups, training_sets
from pipeline.evaluate.subgroups import UNKNOWN_GROUP, masks, subgroup_codes
from pipeline.evaluate.truth import Question

CLASSES = Question(("normal", "pneumonia"))


class Described(Cohort):
    """Attributes without scans: what the functions here read of a cohort."""

    def __init__(self, codes: np.ndarray) -> None:
        self.codes = codes

    @property
    def info(self):  # type: ignore[override]
        class Info:
            attributes = {"sex": ("F", "M"), "view": ("AP", "PA")}  # noqa: RUF012

        return Info

    @property
    def attribute_names(self) -> tuple[str, ...]:
        return ("sex", "view")

    def attributes(self) -> np.ndarray:
        return self.codes


@pytest.fixture
def cohort() -> Cohort:
    return Described(np.array([[0, 0], [0, 1], [1, 0], [UNKNOWN, 0], [0, 0]], dtype=np.uint8))


def test_groups_of_scans_and_images_have_the_same_codes(cohort: Cohort) -> None:
    requested = {"sex": ["F", "M", "F", None], "view": ["AP", "AP", "PA", "AP"]}
    codes = subgroup_codes(cohort, np.array([0, 1, 2, 3]), requested)
    assert codes is not None
    real, made = codes
    assert (made[0], made[1], made[2]) == (real[0], real[2], real[1])
    assert real[3] == made[3] == UNKNOWN_GROUP
    assert len({*real.tolist()}) == 4


def test_only_attributes_that_were_requested_make_groups(cohort: Cohort) -> None:
    codes = subgroup_codes(cohort, np.array([0, 1, 2]), {"sex": ["M", "F"], "view": [None, None]})
    assert codes is not None
    real, made = codes
    assert real[0] == real[1] == made[1] and real[2] == made[0]
    assert subgroup_codes(cohort, np.array([0]), {}) is None
    assert subgroup_codes(cohort, np.array([0]), {"laterality": ["L"]}) is None


def test_each_attribute_gives_its_subgroups_by_itself(cohort: Cohort) -> None:
    found = masks(cohort, np.array([4, 2, 3]))
    assert {name: own.tolist() for name, own in found.items()} == {
        "sex F": [True, False, False],
        "sex M": [False, True, False],
        "view AP": [True, True, True],
        "view PA": [False, False, False],
    }


def test_rare_subgroups_are_filled_up_with_images_of_their_own() -> None:
    def pool(labels: list[int], groups: list[int]) -> Pool:
        images = np.arange(len(labels), dtype=np.float32).reshape(-1, 1, 1, 1)
        return Pool(np.array(labels), lambda rows: images[rows], groups=np.array(groups))

    real = pool([0] * 10 + [1] * 6, [0] * 8 + [1] * 2 + [0] * 3 + [1] * 2 + [UNKNOWN_GROUP])
    made = pool([0] * 20 + [1] * 10, [0, 1] * 2 + [1] * 16 + [0] * 10)
    assert missing_in_groups(real, made, 0) == {0: 0, 1: 6}
    # There is no image of the rarer subgroup of the other class.
    assert missing_in_groups(real, made, 1) == {0: 0, 1: 0}
    arms, notes = later_arms(
        [10, 6],
        [20, 10],
        in_groups=[6, 0],
        names=("balancing", "balancing_groups"),
        ratios=[1.0],
        classes=CLASSES.names,
        augmentation=LIGHT,
    )
    [balancing, arm] = arms
    assert (balancing.name, arm.name, arm.num_synthetic) == ("balancing", "balancing_groups", (6, 0))
    assert not notes
    [(images, labels)] = training_sets(arm, real, made, seed=0, question=CLASSES)
    added = images[16:, 0, 0, 0].astype(int)
    assert len(added) == len(set(added)) == 6 and (labels[16:] == 0).all()
    assert made.groups is not None and (made.groups[added] == 1).all()
    assert missing_in_groups(real, replace(made, groups=None), 0) == {}


def test_an_arm_that_would_add_nothing_is_named() -> None:
    names = ("balancing", "balancing_groups")
    arms, notes = later_arms(
        [10, 10], [9, 9], in_groups=[0, 0], names=names, ratios=[1.0], classes=("a", "b"), augmentation=LIGHT
    )
    assert arms == []
    assert any("balancing, balancing_groups: not trained" in note for note in notes)


def test_what_was_requested_is_read_from_the_table() -> None:
    texts = ['{"sex":"F","findings":{"mass":1}}', "", '{"sex":null,"findings":{"mass":null}}']
    requested = requested_of(texts)
    assert requested.attributes == {"sex": ["F", None, None]}
    assert requested.findings == {"mass": [1, None, None]}
