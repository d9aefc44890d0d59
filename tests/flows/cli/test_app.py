"""The command line itself: help, dry runs, checks of manifest and machine."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from tests.cohorts import write_cohort
from tests.flows.conftest import PHANTOM, Call, sets

COMMANDS = (
    "run", "study", "ingest", "train", "sample", "edit", "audit", "release", "evaluate",
    "verify", "validate", "doctor", "deploy", "recipe",
)  # fmt: skip
GROUPS = {"recipe": ("show",)}
"""Commands that hold commands of their own."""
CALLS = [(name, *inner) for name in COMMANDS for inner in ([(one,) for one in GROUPS.get(name, ())] or [()])]
"""The words that call each command."""


def contents(folder: Path) -> dict[str, tuple[int, int]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    }


def test_the_overview_names_every_command(call: Call) -> None:
    done = call("--help")
    assert done.code == 0
    listed = [line.split()[0] for line in done.out.split("Commands:")[1].splitlines() if line.strip()]
    assert listed == list(COMMANDS)


def test_a_group_names_its_commands(call: Call) -> None:
    for name, commands in GROUPS.items():
        text = call(name, "--help").out
        listed = [line.split()[0] for line in text.split("Commands:")[1].splitlines() if line.strip()]
        assert listed == list(commands)


@pytest.mark.parametrize("command", CALLS, ids=" ".join)
def test_the_help_of_a_command_holds_an_example_that_the_command_accepts(
    call: Call, command: tuple[str, ...]
) -> None:
    shown = call(*command, "--help")
    assert shown.code == 0
    lines = shown.out.split("Example:")[1].splitlines()
    example = next(line.strip() for line in lines if line.strip().startswith("phosphor "))
    from typer.main import get_command

    from flows.cli.app import app

    parts = shlex.split(example)[1:]
    assert tuple(parts[: len(command)]) == command
    found = get_command(app)
    for word in command:
        found = found.commands[word]  # type: ignore[attr-defined]
    # Parsing fails on an unknown option, a missing argument or a value of the wrong type.
    found.make_context(command[-1], parts[len(command) :], resilient_parsing=False)


@pytest.mark.parametrize(
    "command", ["run", "ingest", "train", "sample", "edit", "audit", "release", "evaluate"]
)
def test_every_stage_takes_the_shared_options(call: Call, command: str) -> None:
    shown = call(command, "--help").out
    assert all(option in shown for option in ("--recipe", "--set", "--force", "--dry-run", "--out"))


def test_the_version_is_shown(call: Call) -> None:
    from pipeline import __version__

    assert call("--version").out.strip() == __version__


def test_a_dry_run_of_a_whole_run_estimates_every_stage_and_writes_nothing(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHOSPHOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    done = call("run", PHANTOM, "--recipe", "smoke", "--dry-run", *sets())
    assert done.code == 0, done.err
    plan = done.last_line
    assert [step["stage"] for step in plan["steps"]] == [
        "cohort", "checkpoint", "candidates", "audit", "release", "evaluation", "report"
    ]  # fmt: skip
    assert {step["state"] for step in plan["steps"]} == {"new"}
    assert all(step["seconds"] > 0 for step in plan["steps"])
    assert plan["seconds"] >= sum(step["seconds"] for step in plan["steps"])
    assert plan["memory_bytes"] > 100 * 2**20
    assert "Nothing was written" in done.err
    assert not (tmp_path / "runs").exists()
    assert not list((tmp_path / "cache").rglob("*.dcm"))


def test_a_dry_run_costs_more_where_more_is_asked(tmp_path: Path, call: Call) -> None:
    reference = write_cohort(tmp_path / "cohort", num_scans=60, image_size=16)
    arguments = (
        "train",
        reference.path,
        "--out",
        tmp_path / "out",
        "--recipe",
        "smoke",
        "--dry-run",
        *sets(),
    )
    few = call(*arguments).last_line["steps"][0]
    many = call(*arguments, "--set", "train.num_steps=24000").last_line["steps"][0]
    wide = call(*arguments, "--set", "train.channels=[32, 64]").last_line["steps"][0]
    assert many["seconds"] > 10 * few["seconds"]
    assert wide["disk_bytes"] > 2 * few["disk_bytes"]
    assert not (tmp_path / "out").exists()


def test_a_dry_run_after_a_run_says_what_would_be_reused_and_refused(finished_run: Path, call: Call) -> None:
    before = contents(finished_run)
    arguments = ("run", PHANTOM, "--recipe", "smoke", "--out", finished_run, "--dry-run", *sets())
    states = {step["stage"]: step["state"] for step in call(*arguments).last_line["steps"]}
    assert set(states.values()) - {states["report"]} == {"reuse"}
    changed = call(*arguments, "--set", "sample.num_steps=5").last_line["steps"]
    states = {step["stage"]: step["state"] for step in changed}
    assert (states["cohort"], states["checkpoint"], states["candidates"]) == ("reuse", "reuse", "refuse")
    forced = call(*arguments, "--set", "sample.num_steps=5", "--force").last_line["steps"]
    assert {step["stage"]: step["state"] for step in forced}["candidates"] == "replace"
    assert contents(finished_run) == before


def test_dry_runs_of_single_stages_write_nothing(finished_run: Path, tmp_path: Path, call: Call) -> None:
    run, out = finished_run, tmp_path / "out"
    before = contents(run)
    for arguments in (
        ("ingest", PHANTOM),
        ("train", run / "cohort"),
        ("sample", run / "checkpoint"),
        ("edit", run / "checkpoint", "--from", run / "cohort", "--to", "mass", "--mask", ".2,.2,.6,.6"),
        ("audit", run / "candidates", "--cohort", run / "cohort"),
        ("release", run / "candidates", "--audit", run / "audit"),
        ("evaluate", run / "release", "--cohort", run / "cohort"),
    ):
        done = call(*arguments, "--out", out, "--recipe", "smoke", "--dry-run", *sets())
        assert done.code == 0, done.err
        (step,) = done.last_line["steps"]
        assert (step["stage"], step["state"]) == (arguments[0], "new")
        assert step["seconds"] > 0
    assert not out.exists()
    assert contents(run) == before


def test_the_estimated_disk_of_a_run_is_within_a_factor_of_two(
    finished_run: Path, tmp_path: Path, call: Call
) -> None:
    plan = call("run", PHANTOM, "--recipe", "smoke", "--out", tmp_path / "o", "--dry-run", *sets()).last_line
    used = sum(path.stat().st_size for path in finished_run.rglob("*") if path.is_file())
    assert used / 2 <= plan["disk_bytes"] <= used * 2


def test_validate_counts_what_a_manifest_lists(tmp_path: Path, call: Call) -> None:
    import numpy as np
    from PIL import Image

    for name, count in {"a": 3, "b": 2}.items():
        (tmp_path / "images" / name).mkdir(parents=True)
        for number in range(count):
            pixels = np.full((16, 16), 40 * number, dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{number}.png")
    manifest = tmp_path / "manifest.yaml"
    manifest.write_text("name: m\nsources: [{kind: images, path: images, label: {folder: 0}}]\n")
    before = contents(tmp_path)
    done = call("validate", manifest)
    assert done.code == 0, done.err
    assert done.last_line["counts"] == {"a": 3, "b": 2}
    assert "no patient ids" in done.err
    assert contents(tmp_path) == before


def test_validate_of_the_phantom_makes_no_phantom(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PHOSPHOR_CACHE", str(tmp_path / "cache"))
    done = call("validate", PHANTOM)
    assert done.code == 0, done.err
    assert done.last_line["name"] == "phantom"
    assert not (tmp_path / "cache").exists()


def test_doctor_reports_this_machine(call: Call) -> None:
    done = call("doctor")
    assert done.code == 0, done.err
    facts = done.last_line
    assert facts["bad"] == []
    assert facts["key"] == "from PHOSPHOR_KEY"
    assert "RLE" in facts["codecs"]
    assert "GiB free" in facts["disk"]


def test_doctor_finds_a_key_that_others_can_read(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PHOSPHOR_KEY")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    none = call("doctor")
    assert (none.code, list(tmp_path.rglob("*.key"))) == (0, [])
    path = tmp_path / "phosphor" / "pseudonym.key"
    path.parent.mkdir()
    path.write_text("5e" * 32)
    path.chmod(0o644)
    done = call("doctor")
    assert done.code == 1
    assert done.last_line["bad"] == ["key"]
    assert f"chmod 600 {path}" in done.err
