"""Several processes train what one would: the same batches, the same steps up to rounding, one output."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.checkpoint import read_tensors
from pipeline.artifacts.checkpoint import load_denoiser, read_checkpoint_info
from pipeline.artifacts.cohort import Cohort
from pipeline.distributed.cpu_threads import threads
from pipeline.distributed.process_group import Place, Ranks
from pipeline.errors import UsageError
from pipeline.records import CheckpointRef, CohortRef
from pipeline.sample import SampleSettings, run_sample
from pipeline.train import TrainSettings, run_train
from pipeline.train.loop import train
from tests import tiny
from tests.jobs import run_job, torchrun

FIELDS: Mapping[str, Any] = {
    **tiny.TRAIN,
    "num_steps": 12,
    "batch_size": 9,
    "learning_rate": 1e-3,
    "warmup_steps": 3,
    "checkpoint_every_steps": 3,
    "grid_every_steps": 6,
    "class_balance": 0.3,
}
SETTINGS = TrainSettings(**FIELDS)
SAMPLING: Mapping[str, Any] = {"per_class": 10, "num_steps": 4, "batch_size": 8, "shard_size": 8}

ROUNDING, ROUNDING_BF16 = 1e-5, 2e-2
"""Relative, of the images that two trainings expect. Measured after 12 steps, parts of four scans against one
whole batch: fp32 7e-8 (AdamW 1.5e-7), bf16 1e-3. Weights are further apart than images: some, such as a bias
before a normalisation, do not change the function and follow rounding alone."""

WORK = """
import json, os, signal, sys
from pathlib import Path
from pipeline.records import CohortRef
from pipeline.sample import SampleSettings, run_sample
from pipeline.stage import load_reference
from pipeline.train import TrainSettings, run_train
import pipeline.train.loop as loop
{before}
cohort, out = load_reference(CohortRef, Path(sys.argv[1])), Path(sys.argv[2])
made = run_train(cohort, out / "checkpoint", TrainSettings(**json.loads(sys.argv[3])), seed=4)
drawn = run_sample(made, out / "candidates", SampleSettings(**json.loads(sys.argv[4])), seed=9)
print(json.dumps([made.model_dump(mode="json"), drawn.model_dump(mode="json")]))
"""


@pytest.fixture(scope="module")
def alone(tiny_cohort_16: CohortRef, tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    return run_train(tiny_cohort_16, tmp_path_factory.mktemp("alone") / "checkpoint", SETTINGS, seed=4)


def arguments(cohort: CohortRef, out: Path, **changes: Any) -> list[str]:
    return [str(cohort.path), str(out), json.dumps({**FIELDS, **changes}), json.dumps(dict(SAMPLING))]


def rows(checkpoint: Path) -> list[dict[str, str]]:
    with (checkpoint / "progress.csv").open() as stream:
        return list(csv.DictReader(stream))


def difference(first: Path, second: Path) -> float:
    """Return how far the images that two checkpoints expect are apart, against how far they are from zero."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(32, 1, 16, 16, generator=generator)
    sigma = torch.linspace(0.05, 5.0, 32)
    images = [
        load_denoiser(path)[0](x * sigma.reshape(-1, 1, 1, 1), sigma, torch.arange(32) % 4)
        for path in (first, second)
    ]
    return float((images[0] - images[1]).norm() / images[0].norm())


def test_two_processes_train_and_draw_what_one_does(
    tiny_cohort_16: CohortRef, alone: CheckpointRef, tmp_path: Path
) -> None:
    done = run_job(WORK.format(before=""), arguments(tiny_cohort_16, tmp_path))
    assert [process.returncode for process in done] == [0, 0], done[0].stderr + done[1].stderr
    # All processes return the same references, and one of them has written everything once.
    assert done[0].stdout == done[1].stdout
    made, drawn = json.loads(done[0].stdout)
    checkpoint = tmp_path / "checkpoint"
    assert [row["step"] for row in rows(checkpoint)] == ["10", "12"]
    for row, expected in zip(rows(checkpoint), rows(alone.path), strict=True):
        assert float(row["loss"]) == pytest.approx(float(expected["loss"]), rel=1e-4)
        assert row["learning_rate"] == expected["learning_rate"]
    assert difference(checkpoint, alone.path) < ROUNDING
    assert made["inputs_digest"] == alone.inputs_digest
    record = json.loads((checkpoint / "machine.json").read_text())
    assert record["world_size"] == 2
    assert record["num_threads"] == 1

    opened = CheckpointRef(**made)
    # Bytes are equal at a fixed number of threads: each of the two processes had one.
    with threads(1):
        single = run_sample(opened, tmp_path / "single", SampleSettings(**SAMPLING), seed=9)
    assert single.digest == drawn["digest"]
    names = sorted(path.name for path in single.path.glob("pixels-*"))
    assert len(names) == 5
    assert all(
        (single.path / name).read_bytes() == (tmp_path / "candidates" / name).read_bytes()
        for name in [*names, "candidates.parquet"]
    )


# Process 0 (or 1) is killed in the middle of step 8: the other computes its gradient and waits for the sum.
MID_STEP = """
step = loop.Trainer.step
def dying(self, number):
    if number == 7 and self.ranks.rank == {rank}:
        self.one_step.working.return_gradients = lambda **_: os.kill(os.getpid(), signal.SIGKILL)
    return step(self, number)
loop.Trainer.step = dying
"""


@pytest.mark.parametrize("rank", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_killed_job_of_two_goes_on_as_one_process(
    tiny_cohort_16: CohortRef, alone: CheckpointRef, tmp_path: Path, rank: int
) -> None:
    script = tmp_path / "work.py"
    script.write_text(WORK.format(before=MID_STEP.format(rank=rank)))
    done = torchrun([str(script), *arguments(tiny_cohort_16, tmp_path)])
    assert done.returncode == 1
    assert "Signal 9 (SIGKILL)" in done.stderr
    out = tmp_path / "checkpoint"
    assert not (out / "reference.json").exists()
    saved = sorted(path.name for path in (out / "state").glob("step-*"))
    assert saved[-1] == "step-000000006.safetensors"

    resumed = run_train(tiny_cohort_16, out, SETTINGS, seed=4)
    assert resumed.inputs_digest == alone.inputs_digest
    assert json.loads((out / "machine.json").read_text())["world_size"] == 1
    assert [row["step"] for row in rows(out)] == ["10", "12"]
    # Row 10 averages over the steps since the resume, so that only the last one has the same steps in both.
    assert float(rows(out)[-1]["loss"]) == pytest.approx(float(rows(alone.path)[-1]["loss"]), rel=1e-4)
    assert difference(out, alone.path) < ROUNDING


@pytest.mark.slow
def test_the_command_line_under_torchrun_prints_one_reference(
    tiny_cohort_16: CohortRef, tmp_path: Path
) -> None:
    sets = [f"--set=train.{key}={json.dumps(value)}" for key, value in FIELDS.items()]
    command = ["-m", "flows", "train", str(tiny_cohort_16.path), "--out", str(tmp_path / "c"), *sets]
    done = torchrun(command)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 1
    assert json.loads(lines[0])["counts"]["steps"] == 12
    assert (tmp_path / "c" / "recipe.yaml").is_file()
    again = torchrun(command)
    assert json.loads(again.stdout)["digest"] == json.loads(lines[0])["digest"]


def test_more_processes_than_scans_are_refused(tiny_cohort_16: CohortRef, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="12 processes cannot share a step of 9 scans") as caught:
        train(
            Cohort(tiny_cohort_16.path),
            None,
            SETTINGS,
            seed=4,
            inputs_digest="",
            ranks=Ranks(Place(3, 12)),
        )
    assert caught.value.exit_code == 2
    assert "at most 9 processes" in caught.value.remedy


def test_small_parts_of_a_gradient_differ_by_its_rounding_alone(
    tiny_cohort_16: CohortRef, tmp_path: Path
) -> None:
    fields = {**FIELDS, "optimizer": "adamw"}
    whole = run_train(tiny_cohort_16, tmp_path / "whole", TrainSettings(**fields), seed=4)
    settings = TrainSettings(**{**fields, "micro_batch": 4})
    parts = run_train(tiny_cohort_16, tmp_path / "parts", settings, seed=4)
    assert difference(whole.path, parts.path) < ROUNDING


@pytest.mark.parametrize("micro_batch", [1, 4, 9, 100])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_small_parts_add_up_to_the_same_training(
    tiny_cohort_16: CohortRef, alone: CheckpointRef, tmp_path: Path, micro_batch: int, dtype: str
) -> None:
    whole = alone
    few = {**FIELDS, "precision": dtype, "grid_every_steps": 0}
    if dtype == "bf16":
        whole = run_train(tiny_cohort_16, tmp_path / "whole", TrainSettings(**few), seed=4)
    settings = TrainSettings(**{**few, "micro_batch": micro_batch})
    parts = run_train(tiny_cohort_16, tmp_path / "parts", settings, seed=4)
    if micro_batch >= 9:
        final = "state/step-000000012.safetensors"
        expected, found = (read_tensors(path / final).tensors for path in (whole.path, parts.path))
        assert all(np.array_equal(found[name], tensor) for name, tensor in expected.items())
    else:
        assert difference(whole.path, parts.path) < (ROUNDING if dtype == "fp32" else ROUNDING_BF16)


def test_a_training_goes_on_in_smaller_parts(
    tiny_cohort_16: CohortRef, alone: CheckpointRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.train.loop import Trainer

    step = Trainer.step

    def stop(self: Trainer, number: int) -> torch.Tensor:
        if number == 7:
            raise KeyboardInterrupt
        return step(self, number)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "step", stop)
        run_train(tiny_cohort_16, tmp_path / "c", SETTINGS, seed=4)
    smaller = SETTINGS.model_copy(update={"micro_batch": 2, "checkpoint_activations": True})
    resumed = run_train(tiny_cohort_16, tmp_path / "c", smaller, seed=4)
    assert resumed.inputs_digest == alone.inputs_digest
    assert difference(resumed.path, alone.path) < ROUNDING
    assert json.loads((tmp_path / "c" / "machine.json").read_text())["micro_batch"] == 2
    assert read_checkpoint_info(resumed.path).num_steps == 12
