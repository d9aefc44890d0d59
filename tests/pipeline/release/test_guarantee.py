"""A guarantee of the generator's training stands alike in report, provenance and card."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.artifacts.guarantee import DifferentialPrivacy
from pipeline.errors import TamperedError
from pipeline.release import ReleaseSettings, run_release
from pipeline.release.verify import verify_release
from tests.pipeline.release.sets import make_audit
from tests.pipeline.release.test_verify import make_sums_right

GUARANTEE = DifferentialPrivacy(
    epsilon=7.96,
    delta=2e-5,
    prv_epsilon=7.11,
    unit="patient",
    num_units=5000,
    noise_multiplier=1.3,
    max_grad_norm=1.0,
    sample_rate=0.2,
    num_steps=1000,
)


@pytest.fixture
def guaranteed(gated: tuple[Path, Path], tmp_path: Path) -> Path:
    audit = make_audit(tmp_path / "audit", gated[0], differential_privacy=GUARANTEE)
    run_release(gated[0], audit, tmp_path / "release", ReleaseSettings(), seed=1)
    return tmp_path / "release"


def test_it_is_stated_with_unit_accountant_and_what_lies_outside(guaranteed: Path) -> None:
    stated = json.loads((guaranteed / "provenance.json").read_text())["differential_privacy"]
    assert DifferentialPrivacy.model_validate(stated) == GUARANTEE
    card = (guaranteed / "DATASET_CARD.md").read_text()
    assert "epsilon 7.96 (RDP accountant; 7.11 by PRV), delta 2.0e-05, for each patient of the 5000" in card
    assert "which of the drawn images the gate accepted" in card
    verify_release(guaranteed)


def test_a_release_without_one_states_none(release: Path) -> None:
    assert json.loads((release / "provenance.json").read_text())["differential_privacy"] is None
    assert "epsilon" not in (release / "DATASET_CARD.md").read_text()


def test_a_smaller_epsilon_in_one_place_is_found(guaranteed: Path) -> None:
    for name, message in (
        ("provenance.json", "another guarantee than the privacy report"),
        ("DATASET_CARD.md", "its guarantee"),
    ):
        path = guaranteed / name
        whole = path.read_text()
        path.write_text(whole.replace("7.96", "0.96"))
        make_sums_right(guaranteed)
        with pytest.raises(TamperedError, match=message):
            verify_release(guaranteed)
        path.write_text(whole)
