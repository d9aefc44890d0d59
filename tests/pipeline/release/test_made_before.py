"""A release that replaces another says what its audit did not know of, and how to have it counted."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest

from pipeline.append_log import read_entries
from pipeline.artifacts.privacy_report import EarlierRelease, read_privacy_report
from pipeline.errors import OutputExistsError
from pipeline.records import Policy, ReleaseRef
from pipeline.release import ReleaseSettings, run_release, verify_release
from pipeline.storage import digest_of
from tests.pipeline.release.sets import CHECKPOINT, make_audit, make_candidates

OTHER_COHORT = digest_of("another cohort")


def made(
    folder: Path, seed: int, out: str = "release", *, force: bool = False, **fields: object
) -> ReleaseRef:
    """Release other images for each seed, of one cohort unless `fields` of the report say otherwise."""
    place = folder / f"{seed}-{digest_of(sorted(fields))[:8]}"
    candidates = make_candidates(place / "candidates", seed=seed)
    audit = make_audit(place / "audit", candidates, **fields)
    return run_release(candidates, audit, folder / "run" / out, ReleaseSettings(), seed=1, force=force)


def told(release: ReleaseRef) -> tuple[list[str], str]:
    """Return the digests that the provenance names as not counted, and what report and card say of them."""
    verify_release(release.path)
    words = " ".join(read_privacy_report(release.path).not_covered)
    assert ("not given to the audit" in words) == (
        "not given to the audit" in (release.path / "DATASET_CARD.md").read_text()
    )
    body = json.loads((release.path / "provenance.json").read_text())
    return body["earlier_releases"]["not_counted"], words


def warned(caplog: pytest.LogCaptureFixture) -> str:
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    caplog.clear()
    return " ".join(lines)


def counted(release: ReleaseRef) -> EarlierRelease:
    return EarlierRelease(
        digest=release.digest,
        images=10,
        checkpoint_digest=CHECKPOINT,
        same_cohort=True,
        epsilon=None,
        delta=None,
    )


def test_a_first_release_and_an_unchanged_rerun_say_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = made(tmp_path, 1)
    assert made(tmp_path, 1) == first
    assert made(tmp_path, 1, force=True) == first
    assert told(first) == ([], "membership inference against the model")
    assert warned(caplog) == ""
    log = read_entries(tmp_path / "run" / "releases.jsonl")
    assert [(entry["name"], entry["digest"]) for entry in log] == [("release", first.digest)]


def test_the_refusal_says_what_replacing_means(tmp_path: Path) -> None:
    made(tmp_path, 1)
    with pytest.raises(OutputExistsError, match=r"--force.*keep a copy.*audit\.earlier_releases") as caught:
        made(tmp_path, 2)
    assert caught.value.exit_code == 2


def test_every_release_that_was_replaced_is_told_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = made(tmp_path, 1)
    second = made(tmp_path, 2, force=True)
    assert told(second)[0] == [first.digest]
    assert "1 earlier release of the same or overlapping scans was not given to the audit" in told(second)[1]
    assert "audit again with --set 'audit.earlier_releases" in warned(caplog)
    third = made(tmp_path, 3, force=True)
    assert told(third)[0] == [first.digest, second.digest]
    assert "2 earlier releases" in warned(caplog)
    elsewhere = made(tmp_path, 4, "other")
    assert told(elsewhere)[0] == [first.digest, second.digest, third.digest]


def test_what_the_audit_was_given_is_not_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    first = made(tmp_path, 1)
    second = made(tmp_path, 2, force=True, earlier_releases=(counted(first),))
    assert told(second)[0] == []
    assert warned(caplog) == ""
    body = json.loads((second.path / "provenance.json").read_text())
    assert body["earlier_releases"]["counted"] == [first.digest]
    third = made(tmp_path, 3, force=True, earlier_releases=(counted(second),))
    assert told(third)[0] == [first.digest]


def test_the_same_images_under_another_policy_are_no_other_release(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = made(tmp_path, 1)
    place = next(path for path in tmp_path.iterdir() if path.name.startswith("1-"))
    research = ReleaseSettings(policy=Policy.RESEARCH)
    out = tmp_path / "run" / "release"
    again = run_release(place / "candidates", place / "audit", out, research, seed=1, force=True)
    assert again.digest == first.digest
    assert told(again)[0] == []
    assert warned(caplog) == ""


def test_a_cohort_made_again_counts_at_the_same_place_and_a_strangers_does_not(tmp_path: Path) -> None:
    first = made(tmp_path, 1)
    assert told(made(tmp_path, 2, "other", cohort_digest=OTHER_COHORT))[0] == []
    assert told(made(tmp_path, 3, force=True, cohort_digest=OTHER_COHORT))[0][0] == first.digest


def test_a_release_that_stands_there_without_a_log_is_told_of_too(tmp_path: Path) -> None:
    """An earlier version made it, or a kill came before it was logged."""
    first = made(tmp_path, 1)
    (tmp_path / "run" / "releases.jsonl").unlink()
    assert told(made(tmp_path, 2, force=True))[0] == [first.digest]
    (tmp_path / "run" / "releases.jsonl").unlink()
    (tmp_path / "run" / "release" / "privacy_report.json").unlink()
    third = made(tmp_path, 3, force=True)
    assert told(third)[0] == ["unknown"]
