"""Membership inference of an audit: what is attacked, and what comes of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from models.privacy.pca import principal_components
from pipeline.artifacts.checkpoint import read_checkpoint_info
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.pixels import to_model_range
from pipeline.artifacts.privacy_report import read_privacy_report
from pipeline.privacy import run_audit
from pipeline.privacy.membership.run import Membership, measure_membership
from pipeline.privacy.membership.settings import MembershipSettings
from pipeline.privacy.search.references import load_references
from pipeline.privacy.search.views import COMPONENT_NOISE
from pipeline.privacy.settings import AuditSettings
from pipeline.records import CheckpointRef, Verdict
from pipeline.sample import run_sample
from pipeline.sample.settings import SampleSettings
from pipeline.train import run_train
from pipeline.train.settings import TrainSettings
from pipeline.wording.power import noticeable_auc
from pipeline.wording.privacy import tally
from tests import tiny
from tests.cohorts import write_cohort
from tests.pipeline.privacy.sets import QUICK, fresh

FAST = MembershipSettings(sigmas=(0.5,), known_scans=64, permutations=1_000, resamples=100, min_patients=20)
SETTINGS = QUICK.model_copy(update={"membership": FAST})
RELEASE = ["release_correlation", "release_components", "release_combined"]
CHECKPOINT = ["loss", "sima", "pia", "combined"]
CONTROLS = ["control_untrained", "control_members"]


def attacked(folder: Path, released: torch.Tensor, settings: AuditSettings = SETTINGS) -> Membership:
    cohort = Cohort(folder)
    references = load_references(cohort, settings, np.random.default_rng(0))
    components = principal_components(references.images, COMPONENT_NOISE)
    return measure_membership(cohort, references, released, components, settings, seed=0, checkpoint=None)


def scans_of(folder: Path, role: str) -> torch.Tensor:
    cohort = Cohort(folder)
    rows = np.flatnonzero(cohort.records()["audit"].to_numpy() == role)
    return torch.from_numpy(cohort.images(rows))


def test_a_release_of_copies_tells_its_members(gate_cohort: Path) -> None:
    found = attacked(gate_cohort, scans_of(gate_cohort, "in"))
    assert [result.attack for result in found.release] == RELEASE
    assert all(result.passed is False and result.auc > 0.9 for result in found.release)
    # With every guess right of as many patients as there are, the bound lies well above nothing.
    assert all(result.epsilon_lower_bound > 1 for result in found.release)
    assert not found.checkpoint


def test_members_are_told_by_coarse_structure_whatever_fine_detail_was_drawn_anew(gate_cohort: Path) -> None:
    members = scans_of(gate_cohort, "in")
    others = torch.from_numpy(to_model_range(fresh(len(members), seed=5)[0]))
    coarse, foreign = (gaussian_filter(images, (0, 0, 2, 2)) for images in (members, others))
    found = attacked(gate_cohort, (torch.from_numpy(coarse - foreign) + others).clamp(-1, 1))
    by_name = {result.attack: result for result in found.release}
    assert by_name["release_components"].passed is False
    assert by_name["release_components"].auc > by_name["release_correlation"].auc + 0.05


def test_a_release_of_others_tells_nothing(gate_cohort: Path) -> None:
    pixels, _ = fresh(150, seed=3)
    found = attacked(gate_cohort, torch.from_numpy(to_model_range(pixels)))
    assert all(result.passed for result in found.release)


def test_a_release_of_what_was_left_out_does_not_count_against_train(gate_cohort: Path) -> None:
    found = attacked(gate_cohort, scans_of(gate_cohort, "out"))
    assert all(result.passed and result.auc < 0.5 for result in found.release)


@pytest.fixture(scope="module")
def young(gate_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    """Return a checkpoint that has seen each scan less than once, and started from one of another cohort."""
    folder = tmp_path_factory.mktemp("young")
    settings = TrainSettings.model_validate({**tiny.TRAIN, "num_steps": 12})
    earlier = write_cohort(folder / "earlier", image_size=16, num_classes=2)
    start = run_train(earlier, folder / "start", settings.model_copy(update={"num_steps": 2}), seed=0)
    settings = settings.model_copy(update={"init_from": start.path})
    return run_train(Cohort(gate_cohort).reference, folder / "checkpoint", settings, seed=0)


def test_an_audit_with_a_checkpoint_attacks_it_with_controls(
    gate_cohort: Path, young: CheckpointRef, tmp_path: Path
) -> None:
    run_sample(young, tmp_path / "candidates", SampleSettings(per_class=20, num_steps=4), seed=0)
    settings = SETTINGS.model_copy(update={"min_planted_recall": 0.0})
    run_audit(
        tmp_path / "candidates", gate_cohort, tmp_path / "audit", settings, seed=0, checkpoint=young.path
    )
    report = read_privacy_report(tmp_path / "audit")
    assert [result.attack for result in report.membership] == RELEASE + CHECKPOINT + CONTROLS
    assert report.checkpoint_verdict in (Verdict.PASS, Verdict.INCONCLUSIVE)
    assert not any("membership" in line for line in report.not_covered)
    assert report.earlier_cohorts == read_checkpoint_info(young.path).earlier_cohorts != ()
    assert any("scans of the 1 other cohort that" in line for line in report.not_covered)
    patients = {(result.members, result.non_members) for result in report.membership[:-1]}
    assert len(patients) == 1 and min(patients.pop()) >= 20
    page = (tmp_path / "audit" / "report.html").read_text(encoding="utf-8")
    assert "control_untrained" in page and str(report.checkpoint_verdict) in page
    assert tally(report) in page
    # What would be noticed follows from the level that a single attack of so many has to reach.
    for attacks in (report.membership[:3], report.membership[3:7]):
        sides, level = (attacks[0].members, attacks[0].non_members), settings.significance / len(attacks)
        expected = round(noticeable_auc(*sides, significance=level), 6)
        assert [result.noticeable_auc for result in attacks] == [expected] * len(attacks)
    assert report.needed is not None and report.needed.planted_share == settings.planted_share
    assert all(part.power is not None for part in report.classes.values())


def test_without_a_checkpoint_the_report_says_that_the_model_was_not_attacked(healthy: Path) -> None:
    report = read_privacy_report(healthy / "audit")
    assert [result.attack for result in report.membership] == RELEASE
    assert report.checkpoint_verdict is None
    assert any("with access to the model" in line for line in report.not_covered)


def test_without_audit_patients_nothing_is_measured_and_that_is_said(gate_cohort: Path) -> None:
    switched_off = SETTINGS.model_copy(update={"membership": FAST.model_copy(update={"enabled": False})})
    released = torch.from_numpy(to_model_range(fresh(3, seed=4)[0]))
    found = attacked(gate_cohort, released, switched_off)
    assert not found.release and "disabled" in found.not_run
    found = attacked(gate_cohort, released[:0])
    assert not found.release and "no candidate was accepted" in found.not_run
