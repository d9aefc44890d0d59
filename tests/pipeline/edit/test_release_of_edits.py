"""The gate in force: edits of real scans never leave, edits of candidates leave without their source."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.artifacts.candidates import EDITED_FROM, Candidates
from pipeline.artifacts.cohort import Cohort
from pipeline.edit import EditSettings, run_edit
from pipeline.errors import GateRefusedError, TamperedError
from pipeline.privacy import run_audit
from pipeline.records import CandidatesRef, CheckpointRef, CohortRef, Policy, Verdict
from pipeline.release import ReleaseSettings, run_release
from pipeline.residual import problems, scan_for_values
from pipeline.storage import digest_files, digest_of, write_parquet
from tests.pipeline.edit.conftest import FIELDS
from tests.pipeline.privacy.sets import QUICK
from tests.pipeline.release.sets import make_audit


def refused(candidates: Path, audit: Path, out: Path, policy: Policy) -> GateRefusedError:
    with pytest.raises(GateRefusedError) as caught:
        run_release(candidates, audit, out, ReleaseSettings(policy=policy), seed=0)
    assert not out.exists()
    return caught.value


def test_the_audit_rejects_every_edit_of_low_strength_and_its_report_names_no_source(
    checkpoint: CheckpointRef, tiny_cohort_16: CohortRef, tmp_path: Path
) -> None:
    low = EditSettings(to_class="ring", strength=0.05, per_class=24, batch_size=8, shard_size=8)
    edits = run_edit(checkpoint, tiny_cohort_16.path, tmp_path / "edits", low, seed=1)
    audit = run_audit(
        edits.path, tiny_cohort_16.path, tmp_path / "audit", QUICK, seed=0, checkpoint=checkpoint.path
    )
    assert audit.counts["rejected"] == edits.counts["candidates"] == 30
    assert audit.counts["accepted"] == 0
    assert audit.verdict is Verdict.FAIL
    report = (tmp_path / "audit" / "privacy_report.json").read_text()
    assert "30 of 30 candidates are edits of real scans" in report
    ids = pd.read_parquet(edits.path / "edits.parquet")["source_id"].tolist()
    assert problems(scan_for_values(tmp_path / "audit", ids, files=("privacy_report.json",))) == []
    error = refused(edits.path, audit.path, tmp_path / "release", Policy.RESEARCH)
    assert error.exit_code == 4


@pytest.mark.parametrize("policy", list(Policy))
@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.INCONCLUSIVE])
def test_edits_of_real_scans_are_refused_whatever_the_verdict_and_the_policy(
    edited: CandidatesRef, tmp_path: Path, policy: Policy, verdict: Verdict
) -> None:
    audit = make_audit(tmp_path / "audit", edited.path, verdict=verdict)
    error = refused(edited.path, audit, tmp_path / "release", policy)
    assert "25 of 25 candidates are edits of real scans" in str(error)
    assert "under any policy" in str(error)


def test_edits_of_whole_scans_at_any_strength_are_refused(
    checkpoint: CheckpointRef, tiny_cohort_16: CohortRef, tmp_path: Path
) -> None:
    fresh = EditSettings(to_class="ring", strength=1.0, per_class=4, num_steps=4, batch_size=5, shard_size=5)
    edits = run_edit(checkpoint, tiny_cohort_16.path, tmp_path / "edits", fresh, seed=1)
    audit = make_audit(tmp_path / "audit", edits.path)
    assert "edits of real scans" in str(refused(edits.path, audit, tmp_path / "r", Policy.RESEARCH))


def test_the_mark_cannot_be_taken_off_without_a_new_audit(edited: CandidatesRef, tmp_path: Path) -> None:
    edits = shutil.copytree(edited.path, tmp_path / "edits")
    audit = make_audit(tmp_path / "audit", edits)
    table = Candidates(edits).table
    for unmarked in (table.drop(columns=EDITED_FROM), table.assign(**{EDITED_FROM: "candidate"})):
        write_parquet(edits / "candidates.parquet", unmarked, private=True)
        with pytest.raises(TamperedError, match=r"candidates\.parquet differs"):
            run_release(edits, audit, tmp_path / "release", ReleaseSettings(), seed=0)
        # Even with every digest of the candidates made to fit, the audit is of other candidates.
        reference = json.loads((edited.path / "reference.json").read_text())
        hashes = digest_files(edits, list(reference["files"]))
        reference |= {"files": hashes, "digest": digest_of(hashes)}
        (edits / "reference.json").write_text(json.dumps(reference))
        with pytest.raises(TamperedError, match="this is an audit of other candidates"):
            run_release(edits, audit, tmp_path / "release", ReleaseSettings(), seed=0)
        (edits / "reference.json").write_text((edited.path / "reference.json").read_text())


@pytest.mark.parametrize("mark", ["Scan", "", None])
def test_a_mark_that_is_not_known_counts_as_a_real_scan(
    edited_candidates: CandidatesRef, mark: str | None
) -> None:
    from pipeline.artifacts.candidates import count_from_scans

    table = Candidates(edited_candidates.path).table
    assert count_from_scans(table) == 0
    assert count_from_scans(table.assign(**{EDITED_FROM: [mark, *["candidate"] * (len(table) - 1)]})) == 1


@pytest.mark.parametrize("mark", [None, "scan"])
def test_an_audit_table_with_another_mark_is_refused(
    edited_candidates: CandidatesRef, tmp_path: Path, mark: str | None
) -> None:
    def change(table: pd.DataFrame) -> pd.DataFrame:
        return table.drop(columns=EDITED_FROM) if mark is None else table.assign(**{EDITED_FROM: mark})

    audit = make_audit(tmp_path / "audit", edited_candidates.path, change_table=change)
    with pytest.raises(TamperedError, match="columns are missing" if mark is None else "rows differ"):
        run_release(edited_candidates.path, audit, tmp_path / "release", ReleaseSettings(), seed=0)


def test_edits_of_synthetic_candidates_are_released_without_their_sources(
    edited_candidates: CandidatesRef, drawn: CandidatesRef, tiny_cohort_16: CohortRef, tmp_path: Path
) -> None:
    audit = make_audit(tmp_path / "audit", edited_candidates.path)
    released = run_release(edited_candidates.path, audit, tmp_path / "release", ReleaseSettings(), seed=0)
    metadata = pd.read_parquet(released.path / "metadata.parquet")
    assert len(metadata) == edited_candidates.counts["candidates"] - 1
    assert set(metadata["sampler"]) == {"inpaint-repaint"}
    assert EDITED_FROM not in metadata.columns
    names = {path.name for path in released.path.rglob("*")}
    assert names.isdisjoint({"edits.parquet", "pairs.png"})
    sources = pd.read_parquet(edited_candidates.path / "edits.parquet")["source_id"].tolist()
    records = Cohort(tiny_cohort_16.path).records()["sample_id"].tolist()
    assert problems(scan_for_values(released.path, [*sources, *records])) == []
    real = Cohort(tiny_cohort_16.path).take(list(range(240)))
    synthetic = Candidates(drawn.path).take(list(range(24)))
    before = {image.tobytes() for image in [*real, *synthetic]}
    for path in released.path.glob("images/*/*.png"):
        content = path.read_bytes()
        assert np.asarray(Image.open(path)).tobytes() not in before
        assert not any(image in content for image in before)


def test_the_search_finds_a_source_that_does_stand_in_a_folder(
    edited: CandidatesRef, tiny_cohort_16: CohortRef, tmp_path: Path
) -> None:
    """The control of the search above: the private directory itself names its sources."""
    ids = pd.read_parquet(edited.path / "edits.parquet")["source_id"].tolist()
    shutil.copytree(edited.path, tmp_path / "edits")
    found = problems(scan_for_values(tmp_path / "edits", ids))
    assert {finding.value_number for finding in found} == set(range(len(ids)))
    assert FIELDS["from_class"] == "line"
