"""Sites hold the scans they are asked for, patient by patient, and are cohorts like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.cohort import Cohort, open_cohort
from pipeline.errors import DataError
from pipeline.evaluate.study.plan import experiments, shortfall, site_of
from pipeline.evaluate.study.settings import StudySettings
from pipeline.evaluate.study.sites import draw_site, elsewhere_and_here, write_site
from pipeline.evaluate.truth import patient_numbers


@pytest.fixture
def whole(cohort: Path) -> Cohort:
    return Cohort(cohort)


def test_a_site_holds_its_number_of_scans_a_class_and_as_many_to_choose_by(whole: Cohort) -> None:
    site = draw_site(whole, whole.rows("train"), {0: 6, 1: 6}, seed=1, draw=0, holdout=False)
    labels = np.asarray(whole.labels)
    for split in ("train", "val"):
        rows = site.rows[split]
        assert np.bincount(labels[rows]).tolist() == [6, 6]
        assert set(rows) <= set(whole.rows(split))
    assert set(site.rows) == {"train", "val"}
    # Two scans a patient: six scans of a class are of three patients, not of six.
    patients = patient_numbers(whole)[site.rows["train"]]
    assert len(np.unique(patients)) == 6


def test_draws_differ_repeat_and_a_larger_site_holds_the_smaller_one(whole: Cohort) -> None:
    def rows(size: int, draw: int, seed: int = 1) -> set[int]:
        site = draw_site(whole, whole.rows("train"), {0: size, 1: size}, seed=seed, draw=draw, holdout=False)
        return set(site.rows["train"].tolist())

    assert rows(6, 0) == rows(6, 0) != rows(6, 1)
    assert rows(6, 0) != rows(6, 0, seed=2)
    assert rows(6, 0) < rows(12, 0)
    assert rows(1000, 0) == set(whole.rows("train").tolist())


def test_no_patient_is_elsewhere_and_here(whole: Cohort) -> None:
    there, here = elsewhere_and_here(whole, 0.5, seed=3)
    patients = patient_numbers(whole)
    assert not set(patients[there]) & set(patients[here])
    assert sorted([*there, *here]) == whole.rows("train").tolist()
    assert abs(len(there) - len(here)) <= 2


def test_a_site_on_disk_is_a_cohort_of_its_scans(whole: Cohort, tmp_path: Path) -> None:
    site = draw_site(whole, whole.rows("train"), {0: 4, 1: 4}, seed=1, draw=0, holdout=True)
    reference = write_site(whole, site, tmp_path / "site")
    assert write_site(whole, site, tmp_path / "site") == reference
    opened = open_cohort(reference)
    for split in ("train", "val", "holdout"):
        assert np.array_equal(opened.take(opened.rows(split)), whole.take(site.rows[split]))
        known = whole.records()["sample_id"].to_numpy()[site.rows[split]]
        assert opened.records()["sample_id"].to_numpy()[opened.rows(split)].tolist() == known.tolist()
    assert len(opened.rows("test")) == 0
    assert opened.info.counts["train"] == {"plain": 4, "striped": 4}
    assert opened.info.num_scans == len(opened.labels) == 8 + 8 + 20


def test_the_shared_generator_sees_no_patient_of_a_site(whole: Cohort) -> None:
    settings = StudySettings(regimes=("shared",), sizes=(4, "all"), draws=2)
    planned = experiments(whole, settings, seed=0, foreign=False)
    assert [own.name for own in planned] == ["shared-4-0", "shared-all-0", "shared-4-1", "shared-all-1"]
    patients = patient_numbers(whole)
    for own in planned:
        generator, site = site_of(whole, own, generator=True), site_of(whole, own)
        assert not set(patients[generator.rows["train"]]) & set(patients[site.rows["train"]])
        assert len(generator.rows["holdout"])


def test_the_rare_class_alone_is_small_in_the_imbalanced_regime(whole: Cohort) -> None:
    settings = StudySettings(regimes=("imbalanced",), sizes=(4,), draws=1, rare="striped")
    [own] = experiments(whole, settings, seed=0, foreign=False)
    rows = site_of(whole, own).rows["train"]
    assert np.bincount(np.asarray(whole.labels)[rows]).tolist() == [40, 4]
    unknown = StudySettings(regimes=("imbalanced",), rare="dotted")
    with pytest.raises(DataError, match=r"study\.rare"):
        experiments(whole, unknown, seed=0, foreign=False)


def test_a_site_with_fewer_scans_than_asked_says_so(whole: Cohort) -> None:
    settings = StudySettings(regimes=("self",), sizes=(4, 50, "all"), draws=1)
    few, many, everything = experiments(whole, settings, seed=0, foreign=False)
    assert shortfall(whole, few, site_of(whole, few)) == []
    assert shortfall(whole, everything, site_of(whole, everything)) == []
    notes = shortfall(whole, many, site_of(whole, many))
    assert notes[0] == "a site has 40 train scans of plain instead of 50"
    assert len(notes) == 4


def test_a_cohort_of_one_class_has_no_study(one_class: tuple[Path, Path]) -> None:
    with pytest.raises(DataError, match="compares classes"):
        experiments(Cohort(one_class[0]), StudySettings(), seed=0, foreign=False)
