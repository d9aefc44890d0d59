"""`--test-cohort`: a second phantom hospital as external test, of one command and of a whole run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from pipeline.append_log import EXTERNAL_READS_NAME
from pipeline.artifacts.evaluation_report import read_evaluation_report
from pipeline.ingest import run_ingest
from pipeline.manifest import load_manifest
from pipeline.recipe import load_recipe
from pipeline.records import CohortRef
from tests.flows.conftest import MICRO, PHANTOM, Call, sets


@pytest.fixture(scope="module")
def other_site(tmp_path_factory: pytest.TempPathFactory) -> CohortRef:
    """Return the cohort of another phantom hospital: other patients, under another name."""
    folder = tmp_path_factory.mktemp("other")
    text = PHANTOM.read_text(encoding="utf-8")
    manifest = folder / "other.yaml"
    manifest.write_text(text.replace("name: phantom", "name: elsewhere").replace("seed: 0", "seed: 1"))
    settings = load_recipe("smoke", list(MICRO)).ingest
    return run_ingest(load_manifest(manifest), folder / "cohort", settings)


def test_a_second_phantom_hospital_is_an_external_test(
    finished_run: Path, other_site: CohortRef, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "evaluation"
    arguments = (
        "evaluate", finished_run / "release", "--cohort", finished_run / "cohort", "--out", out,
        "--test-cohort", other_site.path, "--recipe", "smoke", *sets(),
    )  # fmt: skip
    planned = call(*arguments, "--dry-run")
    assert planned.code == 0, planned.err
    assert not out.exists()
    done = call(*arguments)
    assert done.code == 0, done.err
    (test,) = read_evaluation_report(out).external
    assert test.num_scans == other_site.counts["scans"] == done.last_line["counts"]["external_scans"]
    shown = {"name": "elsewhere", "digest": other_site.digest, "verdict": test.utility.verdict}
    assert done.last_line["external"] == [shown]
    internal = read_evaluation_report(finished_run / "evaluation")
    assert read_evaluation_report(out).arms == internal.arms


def test_a_run_takes_external_tests_and_makes_only_the_evaluation_again(
    finished_run: Path, other_site: CohortRef, tmp_path: Path, call: Call
) -> None:
    run = tmp_path / "out"
    shutil.copytree(finished_run, run)
    arguments = (
        "run", PHANTOM, "--recipe", "smoke", "--out", run, *sets(), "--test-cohort", other_site.path,
    )  # fmt: skip
    refused = call(*arguments)
    assert refused.code == 2
    assert "--force" in refused.err
    planned = call(*arguments, "--force", "--dry-run")
    assert planned.code == 0, planned.err
    states = {step["stage"]: step["state"] for step in planned.last_line["steps"]}
    assert states["evaluation"] == "replace"
    assert {state for stage, state in states.items() if stage not in ("evaluation", "report")} == {"reuse"}
    done = call(*arguments, "--force")
    assert done.code == 0, done.err
    assert "release: reused" in done.err
    assert "evaluation: made" in done.err
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "External test: elsewhere" in page
    log = [json.loads(line) for line in (run / EXTERNAL_READS_NAME).read_text().splitlines()]
    assert [entry["cohort"] for entry in log] == [other_site.digest]
    assert call(*arguments).code == 0  # without --force: the same inputs
    assert len((run / EXTERNAL_READS_NAME).read_text().splitlines()) == 1


def test_a_run_refuses_its_own_scans_as_an_external_test_before_it_trains(
    finished_run: Path, tmp_path: Path, call: Call
) -> None:
    run = tmp_path / "out"
    arguments = ("run", PHANTOM, "--recipe", "smoke", "--out", run, *sets(), "--test-cohort")
    missing = call(*arguments, tmp_path / "nowhere")
    assert (missing.code, missing.err.count("--test-cohort: reference.json is missing")) == (3, 1)
    assert not (run / "cohort").exists()
    leaking = call(*arguments, finished_run / "cohort")
    assert leaking.code == 3
    assert "scans are also in the release's cohort, so the test would not be external" in leaking.err
    assert (run / "cohort" / "reference.json").is_file()
    assert not (run / "checkpoint").exists()
