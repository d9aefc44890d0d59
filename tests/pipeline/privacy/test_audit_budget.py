"""`audit.max_minutes` shortens the embedding's training and the attacks, never the search, and is told."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.privacy_report import PrivacyReport, read_privacy_report
from pipeline.cost.pacing import Pace
from pipeline.privacy import run_audit
from pipeline.privacy.membership.settings import MembershipSettings
from pipeline.privacy.partial_results import Halfway
from pipeline.privacy.search.embedding_cache import cohort_embedding
from pipeline.privacy.search.references import load_references
from pipeline.records import CheckpointRef
from pipeline.sample import run_sample
from pipeline.sample.settings import SampleSettings
from pipeline.train import run_train
from pipeline.train.settings import TrainSettings
from tests import tiny
from tests.cohorts import write_cohort
from tests.pipeline.privacy.sets import QUICK

MEMBERSHIP = MembershipSettings(sigmas=(0.5,), known_scans=64, permutations=1_000, resamples=100)
BUDGET = QUICK.model_copy(update={"max_minutes": 1.0, "membership": MEMBERSHIP})


@pytest.fixture
def a_second_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()
    clock = SimpleNamespace(monotonic=lambda: float(next(seconds)))
    monkeypatch.setattr("pipeline.privacy.search.embedding_cache.time", clock)


@pytest.mark.usefixtures("a_second_a_step")
def test_the_embedding_takes_the_steps_that_half_the_time_suffices_for(tmp_path: Path) -> None:
    cohort = Cohort(write_cohort(tmp_path / "cohort").path)
    references = load_references(cohort, BUDGET, np.random.default_rng(0))
    trained = cohort_embedding(cohort, references, BUDGET)
    assert trained.num_steps == 30 < BUDGET.embedding_steps
    again = cohort_embedding(cohort, references, BUDGET)
    assert again.num_steps == 30
    kept, loaded = trained.network.state_dict(), again.network.state_dict()
    assert all(torch.equal(kept[name], loaded[name]) for name in kept)
    enough = BUDGET.model_copy(update={"max_minutes": 10.0})
    plain = BUDGET.model_copy(update={"max_minutes": None})
    unhurried, unlimited = (cohort_embedding(cohort, references, own) for own in (enough, plain))
    assert unhurried.num_steps == unlimited.num_steps == BUDGET.embedding_steps
    weights = unhurried.network.state_dict()
    assert all(torch.equal(weights[name], own) for name, own in unlimited.network.state_dict().items())


@pytest.fixture(scope="module")
def young(gate_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    settings = TrainSettings.model_validate({**tiny.TRAIN, "num_steps": 12})
    folder = tmp_path_factory.mktemp("young")
    return run_train(Cohort(gate_cohort).reference, folder / "checkpoint", settings, seed=0)


def audited(gate_cohort: Path, young: CheckpointRef, folder: Path, minutes: float | None) -> PrivacyReport:
    run_sample(young, folder / "candidates", SampleSettings(per_class=20, num_steps=4), seed=0)
    own = BUDGET.model_copy(update={"max_minutes": minutes})
    run_audit(folder / "candidates", gate_cohort, folder / "audit", own, seed=0, checkpoint=young.path)
    return read_privacy_report(folder / "audit")


@pytest.mark.usefixtures("a_second_a_step")
def test_what_was_cut_short_is_told_and_what_was_not_is_not(
    gate_cohort: Path, young: CheckpointRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.privacy.membership.run.pace_of", lambda _call, count: Pace(0.1 * count, 1))
    hurried = audited(gate_cohort, young, tmp_path / "hurried", 1.0)
    assert [words for words in hurried.not_covered if "trained for 30 of 40 steps" in words]
    (attack,) = [words for words in hurried.not_covered if "on the checkpoint learned from" in words]
    assert "audit.max_minutes=1" in attack
    assert {part.attack for part in hurried.membership} >= {"combined", "control_untrained"}
    monkeypatch.undo()
    unhurried = audited(gate_cohort, young, tmp_path / "unhurried", None)
    assert not [words for words in unhurried.not_covered if "max_minutes" in words]
    # The search is the same, whatever the time.
    assert hurried.reference_counts == unhurried.reference_counts


def test_a_number_is_decided_once_however_often_the_audit_is_killed(tmp_path: Path) -> None:
    asked: list[int] = []

    def decide(value: int) -> int:
        asked.append(value)
        return value

    assert Halfway(tmp_path).number("scans", lambda: decide(70)) == 70
    assert Halfway(tmp_path).number("scans", lambda: decide(20)) == 70
    assert asked == [70]
    assert Halfway().number("scans", lambda: decide(5)) == 5
