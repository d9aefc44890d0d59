"""What `--dry-run` shows: the table, the note of changed sources, the memory of all processes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from flows import dry_run
from flows.dry_run import PlannedStage, render_plan
from pipeline.cost.estimate import Cost
from pipeline.stage import State
from tests.flows.conftest import Call, sets
from tests.pipeline.ingest.scans import manifest_of, write_images


def planned(stage: str, state: State, cost: Cost, changes: str = "") -> PlannedStage:
    return PlannedStage(stage, Path("runs") / stage, state, cost, changes)


def test_a_new_file_is_told_and_so_is_what_has_to_be_made_again(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans, run = write_images(tmp_path), tmp_path / "run"
    manifest_of(tmp_path)
    manifest = tmp_path / "manifest.yaml"
    ingest = ("ingest", manifest, "--out", run / "cohort", "--recipe", "smoke", *sets())
    made = call(*ingest)
    assert made.code == 0, made.err
    same = call(*ingest, "--dry-run")
    assert same.last_line["steps"][0]["state"] == "reuse"
    assert "ingest again" not in same.err
    (scans / "disc" / "pat099_New_0.png").write_bytes((scans / "disc" / "pat000_Smith_0.png").read_bytes())
    alone = call(*ingest, "--dry-run")
    assert alone.last_line["steps"][0]["state"] == "refuse"
    assert "1 new file: ingest again (give --force)." in alone.err.splitlines()
    whole = call("run", manifest, "--out", run, "--recipe", "smoke", *sets(), "--force", "--dry-run")
    assert whole.code == 0, whole.err
    states = {step["stage"]: step["state"] for step in whole.last_line["steps"]}
    assert (states["cohort"], states["checkpoint"]) == ("replace", "new")
    told = "1 new file: ingest again, then checkpoint, candidates, audit, release, evaluation."
    assert told in whole.err.splitlines()
    assert sorted(path.name for path in run.iterdir()) == ["cohort"]


def test_the_table_adds_up_time_and_disk_and_takes_the_largest_memory(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dry_run, "resident_bytes", lambda: 2**20)
    stages = [
        planned("cohort", State.NEW, Cost(10.0, 3 * 2**30, 2**20)),
        planned("checkpoint", State.NEW, Cost(20.0, 5 * 2**30, 2**20, device_bytes=2**30)),
    ]
    stages[1] = replace(stages[1], note="what nobody knows is not counted")
    body = render_plan(stages, tmp_path, 5.0, 2**30)
    assert (body["seconds"], body["memory_bytes"], body["disk_bytes"]) == (35.0, 6 * 2**30, 2 * 2**20)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].split() == ["stage", "state", "time", "memory", "disk"]
    assert lines[2].split() == ["checkpoint", "new", "20", "s", "5.0", "GiB", "1.0", "MiB"]
    assert "memory on the accelerator: up to 1.0 GiB, counted above." in lines
    assert "checkpoint: what nobody knows is not counted." in lines


@pytest.mark.parametrize("url", [None, "http://127.0.0.1:4200/api"])
def test_the_memory_of_the_temporary_server_is_counted_where_one_is_started(
    monkeypatch: pytest.MonkeyPatch, url: str | None
) -> None:
    monkeypatch.setattr("flows.server.configured_api_url", lambda: url)
    _, memory = dry_run._start_with_prefect()
    assert memory == dry_run._CLIENT_BYTES + (0 if url else dry_run._SERVER_BYTES)
