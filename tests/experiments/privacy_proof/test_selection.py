"""Cohorts made of rows of another one are real cohorts: scans, patients and coins are what they were."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.artifacts.cohort import Cohort
from pipeline.records import CohortRef
from pipeline.stage import verify_reference
from tests.experiments.privacy_proof.canaries import TIMES, pick
from tests.experiments.privacy_proof.selection import few_train_scans, with_canaries


def test_few_train_scans_are_half_of_audit_patients_and_the_holdout_stays(
    tiny_cohort: CohortRef, tmp_path: Path
) -> None:
    whole = Cohort(tiny_cohort.path)
    few = Cohort(few_train_scans(whole, tmp_path / "few", 40).path)
    verify_reference(CohortRef, few.folder)
    table, train = few.records(), few.rows("train")
    assert len(train) == 40 and (table["audit"].to_numpy()[train] == "in").sum() == 20
    for split in ("val", "test", "holdout"):
        assert np.array_equal(few.take(few.rows(split)), whole.take(whole.rows(split)))
    held = set(table["patient_id"].to_numpy()[few.rows("holdout")])
    assert held.isdisjoint(table["patient_id"].to_numpy()[train])
    scans = {image.tobytes() for image in whole.take(whole.rows("train"))}
    assert {image.tobytes() for image in few.take(train)} <= scans


def test_canaries_stand_in_train_as_often_as_asked_and_nowhere_else(
    tiny_cohort: CohortRef, tmp_path: Path
) -> None:
    whole = Cohort(tiny_cohort.path)
    canaries, times = pick(whole, 1)
    assert sorted(set(times.tolist())) == [0, *TIMES]
    made = Cohort(with_canaries(whole, tmp_path / "made", canaries, times).path)
    train = [image.tobytes() for image in made.take(made.rows("train"))]
    val = {image.tobytes() for image in made.take(made.rows("val"))}
    for image, number in zip(whole.take(canaries), times, strict=True):
        assert train.count(image.tobytes()) == number
        assert image.tobytes() not in val
    names = whole.records()["patient_id"].to_numpy()[canaries]
    assert len(set(names)) == len(canaries)
