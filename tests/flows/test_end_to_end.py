"""One whole run under a real Prefect server: outputs, artifacts, reuse, refusal."""

from __future__ import annotations

import json
import logging
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from flows.run import STAGES
from pipeline.artifacts.candidates import Candidates, write_candidate_table
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.pixels import write_shard
from pipeline.recipe import load_recipe
from pipeline.records import CandidatesRef, CheckpointRef, ReleaseRef, Verdict
from pipeline.stage import load_reference, open_stage
from tests.flows.conftest import MICRO, PHANTOM, Call, sets


@pytest.fixture
def copied_run(finished_run: Path, tmp_path: Path) -> Path:
    """Return a copy of the finished run that a test may change."""
    folder = tmp_path / "out"
    shutil.copytree(finished_run, folder)
    return folder


def test_a_run_leaves_every_stage_the_report_the_recipe_and_the_times(finished_run: Path) -> None:
    for stage in STAGES:
        assert (finished_run / stage / "reference.json").is_file(), stage
    assert (finished_run / "report.html").stat().st_mode & 0o777 == 0o600
    assert finished_run.stat().st_mode & 0o777 == 0o700
    times = json.loads((finished_run / "timings.json").read_text())
    assert set(times) == set(STAGES)
    assert all(seconds > 0 for seconds in times.values())
    recipe = load_recipe("smoke", [*MICRO, "release.policy=research"])
    for stage in set(STAGES) - {"release"}:
        assert load_recipe(finished_run / stage / "recipe.yaml") == recipe, stage
    assert load_recipe(finished_run / "recipe.yaml") == recipe
    provenance = (finished_run / "release" / "provenance.json").read_text()
    assert recipe.digest() in provenance


def test_the_release_of_a_run_verifies(finished_run: Path, call: Call) -> None:
    done = call("verify", finished_run / "release")
    assert done.code == 0
    assert done.last_line["digest"] == load_reference(ReleaseRef, finished_run / "release").digest


def test_the_prefect_server_shows_six_tasks_and_the_artifacts(finished_run: Path) -> None:
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        runs = [run for run in client.read_flow_runs() if run.parameters.get("out") == str(finished_run)]
        assert runs
        assert runs[0].state is not None
        assert runs[0].state.is_completed()
        tasks = {run.name.rsplit("-", 1)[0] for run in client.read_task_runs()}
        assert {"ingest", "train", "sample", "audit", "release", "evaluate"} <= tasks
        body = {"artifacts": {"flow_run_id": {"any_": [str(runs[0].id)]}}}
        answer = client._client.post("/artifacts/filter", json=body)
        found = {entry["key"]: entry for entry in answer.json()}
    assert {"gate-verdict", "sample-grid", "metrics"} <= set(found)
    assert "Gate verdict: " in found["gate-verdict"]["data"]
    assert found["sample-grid"]["data"].startswith("data:image/png;base64,")
    assert {"KID", "label agreement"} <= {row["measure"] for row in json.loads(found["metrics"]["data"])}


def task_states(folder: Path) -> dict[str, str]:
    """Return the state name of each task in the newest flow run for a directory."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.sorting import FlowRunSort

    with get_client(sync_client=True) as client:
        runs = client.read_flow_runs(sort=FlowRunSort.START_TIME_DESC)
        newest = next(run for run in runs if run.parameters.get("out") == str(folder))
        return {
            run.name.rsplit("-", 1)[0]: run.state_name or ""
            for run in client.read_task_runs()
            if run.flow_run_id == newest.id
        }


def test_prefect_takes_a_finished_stage_from_its_cache_unless_its_directory_is_gone(
    copied_run: Path, call: Call
) -> None:
    arguments = ("run", PHANTOM, "--recipe", "smoke", "--out", copied_run, *sets())
    assert call(*arguments).code == 0
    assert call(*arguments).code == 0
    time.sleep(2)  # task states reach the server as events, after the run itself has ended
    states = task_states(copied_run)
    assert states.pop("ingest") == "Completed"
    assert set(states) == {"train", "sample", "audit", "release", "evaluate"}
    assert set(states.values()) == {"Cached"}


def test_a_second_run_reuses_every_stage_and_says_so(
    finished_run: Path, call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    before = {stage: (finished_run / stage / "reference.json").stat().st_mtime_ns for stage in STAGES}
    times = (finished_run / "timings.json").read_bytes()
    done = call("run", PHANTOM, "--recipe", "smoke", "--out", finished_run, *sets())
    assert done.code == 0, done.err
    for stage in STAGES:
        assert f"{stage}: reused {finished_run / stage}" in done.err
    assert {stage: (finished_run / stage / "reference.json").stat().st_mtime_ns for stage in STAGES} == before
    assert (finished_run / "timings.json").read_bytes() == times
    assert done.last_line["released"] is True
    assert done.last_line["report"] == str(finished_run / "report.html")


def test_an_output_that_was_removed_is_made_again_although_prefect_remembers_it(
    copied_run: Path, call: Call
) -> None:
    arguments = ("run", PHANTOM, "--recipe", "smoke", "--out", copied_run, *sets())
    assert call(*arguments).code == 0
    assert call(*arguments).code == 0
    shutil.rmtree(copied_run / "evaluation")
    done = call(*arguments)
    assert done.code == 0, done.err
    assert (copied_run / "evaluation" / "reference.json").is_file()
    assert "evaluation: made" in done.err
    assert "audit: reused" in done.err


def test_other_settings_are_refused_without_force_and_leave_the_outputs_as_they_are(
    copied_run: Path, call: Call
) -> None:
    before = (copied_run / "evaluation" / "reference.json").read_bytes()
    arguments = ("run", PHANTOM, "--recipe", "smoke", "--out", copied_run, *sets())
    done = call(*arguments, "--set", "evaluate.num_steps=9")
    assert done.code == 2
    assert "--force" in done.err
    assert "Traceback" not in done.err
    assert (copied_run / "evaluation" / "reference.json").read_bytes() == before
    forced = call(*arguments, "--set", "evaluate.num_steps=9", "--force")
    assert forced.code == 0, forced.err
    assert "evaluation: made" in forced.err
    assert "audit: reused" in forced.err


def plant_copies(run: Path) -> None:
    """Put a finished candidate set of train copies in the place of the run's own."""
    recipe = load_recipe("smoke", MICRO)
    own = Candidates(run / "candidates")
    cohort = Cohort(run / "cohort")
    table = own.table
    pixels = np.concatenate(
        [
            cohort.take(np.resize(cohort.rows("train", int(label)), int((table["label"] == label).sum())))
            for label in table["label"].unique()
        ]
    )
    checkpoint = load_reference(CheckpointRef, run / "checkpoint")
    digest = own.reference.inputs_digest
    shutil.rmtree(run / "candidates")
    with open_stage(
        CandidatesRef,
        run / "candidates",
        inputs={"checkpoint": checkpoint.digest},
        settings=recipe.sample,
        seed=recipe.seed,
    ) as stage:
        assert stage.inputs_digest == digest, "the planted set would not be taken for the run's own"
        files = [write_shard(stage.path, 0, pixels), write_candidate_table(stage.path, table)]
        stage.finish(files, own.reference.counts)


def test_a_run_whose_candidates_are_copies_releases_nothing_but_still_reports(
    copied_run: Path, call: Call
) -> None:
    plant_copies(copied_run)
    for stage in ("audit", "release", "evaluation"):
        shutil.rmtree(copied_run / stage)
    (copied_run / "report.html").unlink()
    done = call("run", PHANTOM, "--recipe", "smoke", "--out", copied_run, *sets())
    assert done.code == 4, done.err
    assert not (copied_run / "release").exists()
    assert not (copied_run / "evaluation").exists()
    assert (copied_run / "report.html").is_file()
    assert json.loads((copied_run / "audit" / "reference.json").read_text())["verdict"] == Verdict.FAIL
    assert done.last_line == {
        "stage": "run",
        "released": False,
        "path": str(copied_run),
        "report": str(copied_run / "report.html"),
    }
    assert "Traceback" not in done.err
    for policy in ("research", "strict"):
        refused = call(
            "release", copied_run / "candidates", "--audit", copied_run / "audit", "--out",
            copied_run / "elsewhere", "--policy", policy, "--recipe", "smoke", *sets(),
        )  # fmt: skip
        assert refused.code == 4
        assert not (copied_run / "elsewhere").exists()


def test_no_planted_value_reaches_the_log_of_a_run(
    finished_run: Path, call: Call, caplog: pytest.LogCaptureFixture
) -> None:
    from pipeline.phantom import planted_values
    from pipeline.storage import cache_directory

    with caplog.at_level(logging.DEBUG):
        done = call("run", PHANTOM, "--recipe", "smoke", "--out", finished_run, *sets())
    values = [
        value
        for folder in (cache_directory() / "phantom").iterdir()
        if folder.is_dir()
        for value in planted_values(folder)
        if len(value) >= 6
    ]
    assert len(values) > 50
    said = done.out + done.err + caplog.text
    assert [value for value in values if value in said] == []
