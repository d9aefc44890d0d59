"""The card says of each test what it could see, signs short of failing included, whatever the verdict."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.records import Policy, Verdict
from pipeline.release import ReleaseSettings, run_release
from pipeline.release.verify import verify_release
from tests.pipeline.release.sets import make_audit
from tests.pipeline.wording.test_privacy import PHANTOM, made


@pytest.mark.parametrize(
    ("verdict", "policy"), [(Verdict.INCONCLUSIVE, Policy.RESEARCH), (Verdict.PASS, Policy.STRICT)]
)
def test_a_sign_and_the_tests_that_could_not_tell_stand_on_the_card(
    gated: tuple[Path, Path], tmp_path: Path, verdict: Verdict, policy: Policy
) -> None:
    audit = make_audit(
        tmp_path / "audit", gated[0], verdict=verdict, tests=(made(0.0), made(0.9)), membership=(PHANTOM,)
    )
    out = tmp_path / "release"
    run_release(gated[0], audit, out, ReleaseSettings(policy=policy), seed=1)
    # Markdown's own characters are escaped.
    card = (out / "DATASET_CARD.md").read_text().replace("\\", "")
    assert "Of 2 tests on the images, none failed; 1 found nothing and would have detected" in card
    assert "1 could not tell (each by itself" in card
    assert "The released images show a sign of revealing who was in the training data" in card
    assert ("There is a sign that the accepted images reveal" in card) == (verdict is Verdict.PASS)
    assert "95 % interval 1.0 % to 6.0 %; budget 5 %): could not tell whether the rate is within" in card
    assert "exact: 100.0 % of 40 (95 % interval 90.0 % to 100.0 %)" in card
    verify_release(out)


def test_a_release_whose_patients_were_not_attacked_says_why(
    gated: tuple[Path, Path], tmp_path: Path
) -> None:
    note = "membership inference was switched off"
    audit = make_audit(tmp_path / "audit", gated[0], membership_note=note)
    run_release(gated[0], audit, tmp_path / "release", ReleaseSettings(), seed=1)
    card = (tmp_path / "release" / "DATASET_CARD.md").read_text()
    assert f"reveal who was in the training data was not measured: {note}." in card
