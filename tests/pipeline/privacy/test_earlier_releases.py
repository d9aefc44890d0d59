"""Earlier releases of the same patients count: with them, the next one may tell who was trained on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.privacy_report import EarlierRelease, PrivacyReport, read_privacy_report
from pipeline.errors import DataError, TamperedError
from pipeline.privacy import run_audit
from pipeline.privacy.membership.settings import MembershipSettings
from pipeline.privacy.settings import AuditSettings
from pipeline.recipe import load_recipe, public_recipe
from pipeline.records import Verdict
from pipeline.stage import INPUTS_NAME
from tests.cohorts import CLASSES
from tests.pipeline.evaluate.conftest import write_release
from tests.pipeline.privacy.sets import QUICK, fresh

FAST = MembershipSettings(sigmas=(0.5,), known_scans=64, permutations=1_000, resamples=100, min_patients=20)


def settings(*releases: Path) -> AuditSettings:
    return QUICK.model_copy(update={"membership": FAST, "earlier_releases": releases})


@pytest.fixture(scope="module")
def copied(gate_cohort: Path, healthy: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a release of scans of the audit patients in train, which no gate would have let out."""
    cohort = Cohort(gate_cohort)
    rows = np.flatnonzero(cohort.records()["audit"].to_numpy() == "in")
    folder = tmp_path_factory.mktemp("copied") / "release"
    write_release(folder, cohort.take(rows), np.asarray(cohort.labels)[rows], CLASSES)
    shutil.copy(healthy / "audit" / "privacy_report.json", folder)
    return folder


@pytest.fixture(scope="module")
def counted(gate_cohort: Path, healthy: Path, copied: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an audit of fresh drawings that counts that release."""
    out = tmp_path_factory.mktemp("counted") / "audit"
    run_audit(healthy / "candidates", gate_cohort, out, settings(copied), seed=0)
    return out


def test_what_an_earlier_release_tells_counts_against_the_next(
    healthy: Path, gate_cohort: Path, copied: Path, counted: Path
) -> None:
    alone, found = read_privacy_report(healthy / "audit"), read_privacy_report(counted)
    assert alone.verdict is not Verdict.FAIL and found.verdict is Verdict.FAIL
    told = "the accepted images, with 1 earlier release, reveal who was in the training data"
    assert any(told in reason for reason in found.reasons), found.reasons
    # What is asked of each candidate is asked of it alone.
    accepted = {name: part.accepted for name, part in found.classes.items()}
    assert accepted == {name: part.accepted for name, part in alone.classes.items()}
    assert found.tests == alone.tests
    (part,) = found.earlier_releases
    images = int((Cohort(gate_cohort).records()["audit"] == "in").sum())
    assert part.images == images and part.same_cohort and part.epsilon is None
    words = f"1 earlier release of these patients ({images} images) was included in the membership inference"
    assert words in found.earlier_words
    assert not any(line.startswith("other releases") for line in found.not_covered)
    assert any(line.startswith("other releases") for line in alone.not_covered)
    assert found.earlier_words in (counted / "report.html").read_text()


def test_a_release_that_was_moved_or_named_twice_is_the_same(
    gate_cohort: Path, healthy: Path, copied: Path, counted: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(copied, tmp_path / "moved")
    before = read_privacy_report(counted)
    again = run_audit(healthy / "candidates", gate_cohort, counted, settings(moved, copied), seed=0)
    assert again.path == counted
    assert read_privacy_report(counted) == before
    # Paths of the user's machine stay out of what is kept and what may leave.
    assert str(copied.parent) not in (counted / INPUTS_NAME).read_text()
    assert before.settings["earlier_releases"] == []


def test_a_release_of_nothing_new_changes_nothing(gate_cohort: Path, healthy: Path, tmp_path: Path) -> None:
    pixels, labels = fresh(60, seed=8)
    write_release(tmp_path / "release", pixels, labels, CLASSES)
    shutil.copy(healthy / "audit" / "privacy_report.json", tmp_path / "release")
    run_audit(healthy / "candidates", gate_cohort, tmp_path / "audit", settings(tmp_path / "release"), seed=0)
    found = read_privacy_report(tmp_path / "audit")
    assert found.verdict is read_privacy_report(healthy / "audit").verdict


def test_what_is_no_release_or_was_changed_is_refused_before_anything_is_written(
    gate_cohort: Path, healthy: Path, copied: Path, tmp_path: Path
) -> None:
    changed = shutil.copytree(copied, tmp_path / "changed")
    image = next(changed.glob("images/*/*.png"))
    image.write_bytes(image.read_bytes()[:-1] + b"x")
    for place, error in ((tmp_path / "nothing", DataError), (changed, TamperedError)):
        with pytest.raises(error, match=r"^audit\.earlier_releases: .*Name releases of this cohort"):
            run_audit(healthy / "candidates", gate_cohort, tmp_path / "audit", settings(place), seed=0)
    assert not (tmp_path / "audit").exists()


def test_a_public_recipe_names_no_earlier_release() -> None:
    recipe = load_recipe("smoke", ['audit.earlier_releases=["/home/someone/release"]'])
    assert recipe.audit.earlier_releases == (Path("/home/someone/release"),)
    assert "someone" not in str(public_recipe(recipe))


def earlier(checkpoint: str, epsilon: float | None = None) -> EarlierRelease:
    delta = None if epsilon is None else 1e-5
    return EarlierRelease(
        digest="d", images=5, checkpoint_digest=checkpoint, same_cohort=True, epsilon=epsilon, delta=delta
    )


def test_guarantees_add_up_over_generators(healthy: Path) -> None:
    body: dict[str, Any] = read_privacy_report(healthy / "audit").model_dump()
    guarantee = {
        "epsilon": 3.0, "delta": 1e-5, "prv_epsilon": 2.5, "unit": "patient", "num_units": 100,
        "noise_multiplier": 1.0, "max_grad_norm": 1.0, "sample_rate": 0.1, "num_steps": 10,
    }  # fmt: skip
    body |= {"checkpoint_digest": "a", "differential_privacy": guarantee}
    body["earlier_releases"] = (earlier("a", 3.0), earlier("b", 2.0))
    both = PrivacyReport(**body)
    assert both.joint_guarantee == pytest.approx((5.0, 2e-5))
    assert "epsilon 5.00, delta 2.0e-05 (basic composition)" in both.earlier_words
    body["earlier_releases"] = (earlier("a", 3.0), earlier("b"))
    assert PrivacyReport(**body).joint_guarantee is None
    assert "there is no joint guarantee" in PrivacyReport(**body).earlier_words
