"""The command line knows the checkpoint that a training starts from by its digest."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.recipe import load_recipe
from pipeline.records import CheckpointRef
from pipeline.train import run_train
from tests.cohorts import write_cohort
from tests.flows.conftest import Call

SETTINGS = (
    "train.num_steps=2",
    "train.batch_size=8",
    "train.channels=[8, 16]",
    "train.attention=[false, false]",
    "train.num_norm_groups=8",
    "train.num_head_channels=8",
    "train.grid_every_steps=0",
)


def arguments(cohort: Path, out: Path, *more: str) -> list[str]:
    overrides = [part for name in (*SETTINGS, *more) for part in ("--set", name)]
    return ["train", str(cohort), "--out", str(out), "--recipe", "smoke", *overrides]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CheckpointRef]:
    """Return the folder of a cohort, and a checkpoint trained on it."""
    folder = tmp_path_factory.mktemp("start")
    cohort = write_cohort(folder / "cohort", image_size=16, num_scans=60)
    recipe = load_recipe("smoke", list(SETTINGS))
    return cohort.path, run_train(cohort, folder / "checkpoint", recipe.train, seed=recipe.seed)


def test_a_fine_tuning_is_planned_made_and_reused(
    call: Call, start: tuple[Path, CheckpointRef], tmp_path: Path
) -> None:
    cohort, checkpoint = start
    out = tmp_path / "tuned"
    init = f"train.init_from={checkpoint.path}"
    made = call(*arguments(cohort, out, init))
    assert made.code == 0, made.err
    moved = tmp_path / "moved"
    shutil.copytree(checkpoint.path, moved)
    states = {
        name: call(*arguments(cohort, out, *more), "--dry-run").last_line["steps"][0]["state"]
        for name, more in {
            "same": (init,),
            "moved": (f"train.init_from={moved}",),
            "from scratch": (),
        }.items()
    }
    assert states == {"same": "reuse", "moved": "reuse", "from scratch": "refuse"}


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_missing_start_ends_with_exit_code_3_and_leaves_nothing(
    call: Call, start: tuple[Path, CheckpointRef], tmp_path: Path, dry_run: bool
) -> None:
    cohort, _ = start
    out = tmp_path / "tuned"
    init = f"train.init_from={tmp_path / 'nowhere'}"
    ended = call(*arguments(cohort, out, init), *(["--dry-run"] if dry_run else []))
    assert ended.code == 3
    assert "train.init_from: reference.json is missing" in ended.err
    assert "Traceback" not in ended.err
    assert not out.exists()
