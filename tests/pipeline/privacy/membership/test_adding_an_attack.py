"""A membership attack is one entry of a table: with it alone, audits run it and pages show its row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import torch

from models.diffusion.denoiser import Denoiser
from models.privacy.membership import ATTACKS, Attack, num_passes
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.privacy_report import MembershipResult, PrivacyReport, read_privacy_report
from pipeline.privacy import run_audit
from pipeline.privacy.membership.release_attack import RELEASE_ATTACKS, Held
from pipeline.privacy.membership.settings import MembershipSettings
from pipeline.report.privacy_card import membership_rows
from pipeline.sample import run_sample
from pipeline.sample.settings import SampleSettings
from pipeline.train import run_train
from pipeline.train.settings import TrainSettings
from tests import tiny
from tests.pipeline.privacy.sets import QUICK

FAST = MembershipSettings(sigmas=(0.5,), known_scans=64, permutations=1_000, resamples=100, min_patients=20)
SETTINGS = QUICK.model_copy(update={"membership": FAST, "min_planted_recall": 0.0})
PASSES = num_passes(3)


def plain_error(
    denoiser: Denoiser, clean: torch.Tensor, codes: torch.Tensor, sigmas: Sequence[float]
) -> torch.Tensor:
    """Score by how little the denoiser changes the clean image itself."""
    levels = [torch.full((len(clean),), sigma, device=clean.device) for sigma in sigmas]
    errors = [(denoiser(clean, level, codes) - clean).square().mean(dim=(1, 2, 3)) for level in levels]
    return -torch.stack(errors, dim=1)


def by_brightness(held: Held) -> torch.Tensor:
    """Return how close the mean of some released image comes to that of each scan."""
    ours, theirs = (images.mean(dim=(1, 2, 3)) for images in (held.scans, held.released))
    held.done(len(ours))
    return 1.0 - (ours[:, None] - theirs).abs().amin(dim=1)


@pytest.fixture(scope="module")
def report(gate_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivacyReport]:
    """Audit a young checkpoint's images with one more attack of each sort, and take them out again."""
    ATTACKS["plain_error"] = Attack(plain_error, num_passes=lambda levels: levels)
    RELEASE_ATTACKS["brightness"] = by_brightness
    folder = tmp_path_factory.mktemp("attacked")
    cohort, settings = Cohort(gate_cohort), TrainSettings.model_validate({**tiny.TRAIN, "num_steps": 12})
    young = run_train(cohort.reference, folder / "checkpoint", settings, seed=0)
    run_sample(young, folder / "candidates", SampleSettings(per_class=20, num_steps=4), seed=0)
    run_audit(folder / "candidates", gate_cohort, folder / "audit", SETTINGS, seed=0, checkpoint=young.path)
    yield read_privacy_report(folder / "audit")
    del ATTACKS["plain_error"], RELEASE_ATTACKS["brightness"]


def result_of(report: PrivacyReport, name: str) -> MembershipResult:
    return next(result for result in report.membership if result.attack == name)


def test_both_stand_in_the_report_behind_their_likes(report: PrivacyReport) -> None:
    assert [result.attack for result in report.membership] == [
        "release_correlation", "release_components", "release_brightness", "release_combined",
        "loss", "sima", "pia", "plain_error", "combined",
        "control_untrained", "control_members",
    ]  # fmt: skip
    for name in ("plain_error", "release_brightness"):
        found = result_of(report, name)
        assert found.members >= 20 and found.passed is not None
        # Five and four of them are tried together, for which each p-value is corrected.
        assert found.adjusted_p_value is not None and found.adjusted_p_value >= found.p_value


def test_the_pages_show_a_row_of_each(report: PrivacyReport) -> None:
    rows = {row.name: row for row in membership_rows(report)}
    assert rows["plain error"].given == "the model"
    assert rows["release brightness"].given == "the release"
    assert rows["plain error"].auc == f"{result_of(report, 'plain_error').auc:.3f}"


def test_a_dry_run_counts_its_passes(report: PrivacyReport) -> None:
    assert report.membership and num_passes(3) == PASSES + 3
