"""`phosphor edit` from the command line: what it writes, what it refuses, and with which exit code."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from pipeline.records import CheckpointRef, CohortRef
from pipeline.train import TrainSettings, run_train
from tests.cohorts import write_cohort
from tests.flows.conftest import Call

SMALL = ("--steps", 4, "--set", "edit.batch_size=4", "--set", "edit.shard_size=4", "--set", "edit.repeats=2")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> CohortRef:
    return write_cohort(tmp_path_factory.mktemp("edit") / "cohort", num_scans=60, image_size=16)


@pytest.fixture(scope="module")
def checkpoint(cohort: CohortRef, tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    settings = TrainSettings(
        num_steps=2,
        batch_size=4,
        precision="fp32",
        num_threads=1,
        grid_every_steps=0,
        channels=(8, 8),
        attention=(False, False),
        num_head_channels=8,
        num_norm_groups=8,
    )
    return run_train(cohort, tmp_path_factory.mktemp("edit") / "checkpoint", settings, seed=0)


def test_an_edit_prints_its_reference_and_is_reused(
    checkpoint: CheckpointRef, cohort: CohortRef, tmp_path: Path, call: Call
) -> None:
    out = tmp_path / "edits"
    command = ("edit", checkpoint.path, "--from", cohort.path, "--out", out, "--to", "ring", *SMALL)
    planned = call(*command, "--mask", "0.2,0.2,0.8,0.8", "--count", 4, "--dry-run")
    assert planned.code == 0, planned.err
    (step,) = planned.last_line["steps"]
    assert (step["stage"], step["state"]) == ("edit", "new")
    assert not out.exists()
    done = call(*command, "--mask", "0.2,0.2,0.8,0.8", "--count", 4)
    assert done.code == 0, done.err
    assert done.last_line["stage"] == "candidates"
    assert done.last_line["counts"] == {"candidates": 5, "classes": 1, "per_class": 4, "from_scans": 5}
    assert (out / "recipe.yaml").is_file()
    again = call(*command, "--mask", "0.2,0.2,0.8,0.8", "--count", 4, "--dry-run").last_line["steps"][0]
    assert again["state"] == "reuse"
    other = call(*command, "--strength", "0.5", "--count", 4)
    assert other.code == 2
    assert "--force" in other.err
    forced = call(*command, "--strength", "0.5", "--split", "val", "--force")
    assert forced.code == 0, forced.err


def test_a_mask_file_is_taken_and_its_name_stays_out_of_a_release(
    checkpoint: CheckpointRef, cohort: CohortRef, tmp_path: Path, call: Call
) -> None:
    from pipeline.recipe import load_recipe, public_recipe

    mask = np.zeros((16, 16), dtype=np.uint8)
    mask[4:9, 4:9] = 1
    np.save(tmp_path / "person357_mask.npy", mask)
    done = call(
        "edit", checkpoint.path, "--from", cohort.path, "--out", tmp_path / "edits", "--to", "disc",
        "--mask", tmp_path / "person357_mask.npy", "--count", 2, *SMALL,
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "person357" not in (tmp_path / "edits" / "inputs.json").read_text()
    recipe = load_recipe("cpu", [f"edit.mask={tmp_path / 'person357_mask.npy'}"])
    assert "person357" not in json.dumps(public_recipe(recipe))


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ((), 2, "--to: no class to edit to. Choose from"),
        (("--to", "heart"), 2, "--to: the checkpoint knows no such class"),
        (("--to", "ring", "--class", "heart"), 2, "--class: the sources have no such class"),
        (("--to", "ring", "--strength", "0"), 2, "edit.strength"),
        (("--to", "ring", "--strength", "1.2"), 2, "edit.strength"),
        (("--to", "ring", "--mask", "0.5,0.5,0.2,0.9"), 2, "edit.mask"),
        (("--to", "ring", "--mask", "0.5,0.5,0.2"), 2, "--mask: no such file"),
        (("--to", "ring", "--split", "holdout"), 2, "it is the privacy gate's control"),
        (("--to", "ring", "--sampler", "euler"), 2, "edit.sampler"),
    ],
)
def test_wrong_commands_end_in_one_message(
    checkpoint: CheckpointRef,
    cohort: CohortRef,
    tmp_path: Path,
    call: Call,
    arguments: tuple[str, ...],
    code: int,
    message: str,
) -> None:
    done = call("edit", checkpoint.path, "--from", cohort.path, "--out", tmp_path / "out", *arguments)
    assert done.code == code
    assert message in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


def test_data_that_does_not_fit_ends_in_three(checkpoint: CheckpointRef, tmp_path: Path, call: Call) -> None:
    larger = write_cohort(tmp_path / "cohort", num_scans=20, image_size=32)
    np.save(tmp_path / "mask.npy", np.ones((32, 32)))
    for source, extra, message in (
        (larger.path, (), "not of the checkpoint's 16 x 16 pixels"),
        (larger.path, ("--mask", tmp_path / "mask.npy"), "mask is of another size"),
        (checkpoint.path, (), "neither a cohort nor candidates"),
    ):
        done = call(
            "edit", checkpoint.path, "--from", source, "--out", tmp_path / "o", "--to", "ring", *extra
        )
        assert done.code == 3, done.err
        assert message in done.err
