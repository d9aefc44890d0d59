"""Training ends in the same weights however often it was killed, and refuses what it cannot use."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.checkpoint import read_tensors
from models.diffusion.denoiser import Denoiser
from models.optim.precision import Precision
from pipeline.artifacts.checkpoint import load_denoiser, read_checkpoint_info
from pipeline.errors import DataError, OutputExistsError, TamperedError, TrainingError
from pipeline.records import CheckpointRef, CohortRef
from pipeline.train import TrainSettings, run_train
from pipeline.train.loop import Trainer
from pipeline.train.monitoring.grid import encode_png
from tests import tiny
from tests.cohorts import write_cohort

REPOSITORY = Path(__file__).resolve().parents[3]
FIELDS: Mapping[str, Any] = {
    **tiny.TRAIN,
    "num_steps": 12,
    "warmup_steps": 3,
    "checkpoint_every_steps": 3,
    "grid_every_steps": 6,
    "ema_snapshots": 5,
    "class_balance": 0.3,
}
SETTINGS = TrainSettings(**FIELDS)


@pytest.fixture(scope="module")
def undisturbed(tiny_cohort_16: CohortRef, tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    return run_train(tiny_cohort_16, tmp_path_factory.mktemp("train") / "checkpoint", SETTINGS, seed=4)


def rows(checkpoint: Path) -> list[dict[str, str]]:
    with (checkpoint / "progress.csv").open() as stream:
        return list(csv.DictReader(stream))


def run_and_die(cohort: CohortRef, out: Path, moment: str) -> None:
    """Train in a process of its own that is killed (SIGKILL) at a moment, given as Python statements."""
    program = f"""
import os, signal, sys, json
from pathlib import Path
from pipeline.records import CohortRef
from pipeline.stage import load_reference
from pipeline.train import TrainSettings, run_train
import models.checkpoint, pipeline.train.loop as loop, pipeline.train.state as state
def die(*_): os.kill(os.getpid(), signal.SIGKILL)
{moment}
cohort = load_reference(CohortRef, Path(sys.argv[1]))
run_train(cohort, Path(sys.argv[2]), TrainSettings(**json.loads(sys.argv[3])), seed=4)
"""
    done = subprocess.run(
        [sys.executable, "-c", program, str(cohort.path), str(out), json.dumps(dict(FIELDS))],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


# Written whole, but not yet renamed: the state of step 6 must not count.
BEFORE_RENAME = """
replace = Path.replace
def dying(self, target):
    if str(target).endswith("state/step-000000006.safetensors"): die()
    return replace(self, target)
Path.replace = dying
"""
# Between two saves, in the middle of a step.
MID_STEP = """
step = loop.Trainer.step
def dying(self, number):
    if number == 7: self.optimizer.step = die
    return step(self, number)
loop.Trainer.step = dying
"""
# All is trained and the weights are written, but the checkpoint is not marked as finished.
BEFORE_FINISH = """
import pipeline.stage
pipeline.stage.StageFolder.finish = lambda *a, **k: die()
"""


def test_three_kills_end_in_the_undisturbed_weights_bit_for_bit(
    tiny_cohort_16: CohortRef, undisturbed: CheckpointRef, tmp_path: Path
) -> None:
    out = tmp_path / "checkpoint"
    run_and_die(tiny_cohort_16, out, BEFORE_RENAME)
    assert sorted(path.name for path in (out / "state").glob("step-*")) == ["step-000000003.safetensors"]
    run_and_die(tiny_cohort_16, out, MID_STEP)
    assert (out / "state" / "step-000000006.safetensors").is_file()
    run_and_die(tiny_cohort_16, out, BEFORE_FINISH)
    resumed = run_train(tiny_cohort_16, out, SETTINGS, seed=4)
    assert resumed.digest == undisturbed.digest
    assert (out / "model.safetensors").read_bytes() == (undisturbed.path / "model.safetensors").read_bytes()
    for final in ("state/step-000000012.safetensors", "snapshots/step-000000005.safetensors"):
        assert (out / final).read_bytes() == (undisturbed.path / final).read_bytes()
    assert [row["step"] for row in rows(out)] == [row["step"] for row in rows(undisturbed.path)]
    assert not list(out.rglob("*.tmp")) and not list(out.rglob("*.partial*"))


def test_a_torn_newest_state_falls_back_to_the_one_before(
    tiny_cohort_16: CohortRef, undisturbed: CheckpointRef, tmp_path: Path
) -> None:
    out = tmp_path / "checkpoint"
    shutil.copytree(undisturbed.path, out)
    for name in ("reference.json", "model.safetensors", "checkpoint.json"):
        (out / name).unlink()
    newest = out / "state" / "step-000000012.safetensors"
    newest.write_bytes(newest.read_bytes()[:5000])
    assert run_train(tiny_cohort_16, out, SETTINGS, seed=4).digest == undisturbed.digest


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_resumed_bf16_training_ends_in_the_undisturbed_weights(
    tiny_cohort_16: CohortRef, tmp_path: Path, channels_last: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = Precision("bf16", channels_last=channels_last)
    monkeypatch.setattr("pipeline.train.machine_plan.probe_precision", lambda *_args, **_kwargs: chosen)
    settings = TrainSettings(**{**FIELDS, "precision": "auto"})
    out = tmp_path / "checkpoint"
    whole = run_train(tiny_cohort_16, out, settings, seed=4)
    assert read_checkpoint_info(out).precision == "bf16"
    for name in ("reference.json", "model.safetensors", "checkpoint.json"):
        (out / name).unlink()
    (out / "state" / "step-000000012.safetensors").unlink()
    assert run_train(tiny_cohort_16, out, settings, seed=4).digest == whole.digest


def test_seed_changes_the_weights(
    tiny_cohort_16: CohortRef, undisturbed: CheckpointRef, tmp_path: Path
) -> None:
    other = run_train(tiny_cohort_16, tmp_path / "other", SETTINGS, seed=5)
    assert (other.path / "model.safetensors").read_bytes() != (
        undisturbed.path / "model.safetensors"
    ).read_bytes()


def test_a_finished_checkpoint_is_reused_and_another_is_refused(
    tiny_cohort_16: CohortRef, undisturbed: CheckpointRef
) -> None:
    before = {path: path.stat().st_mtime_ns for path in undisturbed.path.rglob("*") if path.name != ".lock"}
    assert run_train(tiny_cohort_16, undisturbed.path, SETTINGS, seed=4) == undisturbed
    with pytest.raises(OutputExistsError, match="--force"):
        run_train(tiny_cohort_16, undisturbed.path, SETTINGS, seed=5)
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_checkpoint_holds_what_the_layout_promises(
    tiny_cohort_16: CohortRef, undisturbed: CheckpointRef
) -> None:
    folder = undisturbed.path
    assert undisturbed.counts["steps"] == 12
    assert undisturbed.counts["images"] == 96
    info = read_checkpoint_info(folder)
    assert info.classes == ("disc", "line", "ring")
    assert info.cohort_digest == tiny_cohort_16.digest
    assert (info.precision, info.num_threads, info.image_size) == ("fp32", 1, (16, 16))
    assert [row["step"] for row in rows(folder)] == ["10", "12"]
    assert all(float(row["loss"]) > 0 and float(row["images_per_second"]) > 0 for row in rows(folder))
    assert len(list((folder / "state").iterdir())) == 2
    grids = sorted(path.name for path in (folder / "grids").iterdir())
    assert grids == ["step-000006.png", "step-000012.png"]
    assert all(path.stat().st_mode & 0o077 == 0 for path in folder.rglob("*") if path.name != ".lock")


def test_training_lowers_the_loss(tiny_cohort_16: CohortRef, tmp_path: Path) -> None:
    settings = TrainSettings(**{**FIELDS, "num_steps": 60, "learning_rate": 4e-3, "grid_every_steps": 0})
    losses = [
        float(row["loss"]) for row in rows(run_train(tiny_cohort_16, tmp_path / "c", settings, seed=1).path)
    ]
    assert min(losses[-2:]) < 0.8 * losses[0]


def test_machine_choice_is_recorded_and_kept_on_resume(tiny_cohort_16: CohortRef, tmp_path: Path) -> None:
    settings = TrainSettings(**{**FIELDS, "num_steps": 4, "precision": "auto", "grid_every_steps": 0})
    reference = run_train(tiny_cohort_16, tmp_path / "c", settings, seed=1)
    record = json.loads((reference.path / "machine.json").read_text())
    assert set(record["measured"]) == {"bf16", "bf16 channels-last", "fp32", "fp32 channels-last"}
    assert read_checkpoint_info(reference.path).precision == record["dtype"]

    other = {**record, "dtype": "bf16" if record["dtype"] == "fp32" else "fp32", "measured": {}}
    (reference.path / "machine.json").write_text(json.dumps(other))
    for name in ("reference.json", "model.safetensors", "checkpoint.json"):
        (reference.path / name).unlink()
    again = run_train(tiny_cohort_16, tmp_path / "c", settings, seed=1)
    assert read_checkpoint_info(again.path).precision == other["dtype"]


def test_weights_that_run_away_stop_training_and_keep_the_last_good_state(
    tiny_cohort_16: CohortRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def run_away(self: Trainer, number: int) -> torch.Tensor:
        if number == 8:
            self.parameters[0].data.fill_(float("inf"))
        return step(self, number)

    monkeypatch.setattr(Trainer, "step", run_away)
    with pytest.raises(
        TrainingError, match=r"loss of step 9 .* for 8 of 8 scans.*; the state of step 6 is kept"
    ):
        run_train(tiny_cohort_16, tmp_path / "c", SETTINGS, seed=4)
    assert not (tmp_path / "c" / "reference.json").exists()
    newest = sorted((tmp_path / "c" / "state").iterdir())[-1]
    assert read_tensors(newest).metadata["step"] == 6


def test_a_gradient_that_is_not_finite_is_noticed_in_the_same_step(
    tiny_cohort_16: CohortRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def spoil(self: Trainer, number: int) -> torch.Tensor:
        if number == 1:
            self.parameters[0].register_hook(lambda gradient: gradient * float("nan"))
        return step(self, number)

    monkeypatch.setattr(Trainer, "step", spoil)
    with pytest.raises(TrainingError, match=r"gradient of step 2 .*; no state was saved yet"):
        run_train(tiny_cohort_16, tmp_path / "c", SETTINGS, seed=4)


def test_loader_gives_the_averaged_weights_back(
    tiny_cohort_16: CohortRef, undisturbed: CheckpointRef
) -> None:
    denoiser, info = load_denoiser(undisturbed.path, tiny_cohort_16.digest)
    assert isinstance(denoiser, Denoiser)
    assert not denoiser.training
    x = torch.zeros(1, 1, 16, 16)
    first = denoiser(x, torch.ones(1), torch.tensor([0]))
    assert first.shape == (1, 1, 16, 16)
    assert not first.requires_grad
    assert info.num_steps == 12


def test_checkpoint_of_another_cohort_is_refused(undisturbed: CheckpointRef) -> None:
    with pytest.raises(DataError, match="another cohort") as caught:
        load_denoiser(undisturbed.path, "0" * 64)
    assert caught.value.exit_code == 3


@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damaged_weights_are_refused(undisturbed: CheckpointRef, tmp_path: Path, damage: str) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(undisturbed.path, copy)
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-10] ^= 1
    if damage == "remove":
        weights.unlink()
    else:
        weights.write_bytes(bytes(content) if damage == "flip" else bytes(content[:1000]))
    with pytest.raises(TamperedError, match=r"model\.safetensors") as caught:
        load_denoiser(copy)
    assert caught.value.exit_code == 3


def test_cohort_that_changed_underneath_is_refused(tmp_path: Path) -> None:
    reference = write_cohort(tmp_path / "c", image_size=16, num_scans=60)
    with pytest.raises(DataError, match="another cohort"):
        run_train(reference.model_copy(update={"digest": "0" * 64}), tmp_path / "out", SETTINGS, seed=0)


@pytest.mark.parametrize(
    "change", [{"num_steps": 0}, {"channels": (8, 12)}, {"precision": "fp8"}, {"learning_rate": float("nan")}]
)
def test_settings_that_cannot_work_are_refused_when_read(change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(change))):
        TrainSettings(**{**FIELDS, **change})


def test_grid_png_is_read_by_an_image_library(tmp_path: Path) -> None:
    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (7, 11), dtype=np.uint8)
    (tmp_path / "x.png").write_bytes(encode_png(image))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "x.png")), image)


def test_training_needs_no_table_library(tiny_cohort_16: CohortRef, tmp_path: Path) -> None:
    """A GPU node has torch, MONAI, einops, numpy, pydantic, PyYAML and safetensors."""
    program = """
import sys, json
for name in ("pandas", "pyarrow", "PIL", "matplotlib", "scipy", "sklearn", "pydicom", "nibabel", "prefect"):
    sys.modules[name] = None
from pathlib import Path
from pipeline.records import CohortRef
from pipeline.stage import load_reference
from pipeline.train import TrainSettings, run_train
cohort = load_reference(CohortRef, Path(sys.argv[1]))
run_train(cohort, Path(sys.argv[2]), TrainSettings(**json.loads(sys.argv[3])), seed=0)
"""
    fields = json.dumps({**FIELDS, "num_steps": 2, "grid_every_steps": 2})
    done = subprocess.run(
        [sys.executable, "-c", program, str(tiny_cohort_16.path), str(tmp_path / "c"), fields],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
