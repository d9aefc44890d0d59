"""A training that cannot go on says why and what would help, and keeps its last good state."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from models.checkpoint import read_tensors
from models.diffusion.denoiser import Denoiser
from pipeline.artifacts.checkpoint import read_checkpoint_info
from pipeline.errors import DataError, TrainingError
from pipeline.records import CohortRef
from pipeline.train import TrainSettings, run_train
from pipeline.train.batches import require_usable
from pipeline.train.loop import Trainer
from tests import tiny

FIELDS: Mapping[str, Any] = {
    **tiny.TRAIN,
    "num_steps": 12,
    "warmup_steps": 3,
    "checkpoint_every_steps": 3,
}
SETTINGS = TrainSettings(**FIELDS)


def allocator_of(limit: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let the denoiser run out of memory, by a real refusal of torch's allocator, above `limit` scans."""
    seen: list[int] = []
    forward = Denoiser.forward

    def limited(self: Denoiser, x: torch.Tensor, *rest: Any) -> torch.Tensor:
        seen.append(len(x))
        if len(x) > limit:
            torch.empty(2**62, dtype=torch.uint8)
        return forward(self, x, *rest)

    monkeypatch.setattr(Denoiser, "forward", limited)
    return seen


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_micro_batch_that_fits_is_found_and_the_training_goes_on_with_it(
    tiny_cohort_16: CohortRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str
) -> None:
    settings = TrainSettings(**{**FIELDS, "precision": dtype})
    step = Trainer.step

    with monkeypatch.context() as patched:

        def shrink(self: Trainer, number: int) -> torch.Tensor:
            if number == 7:
                allocator_of(3, patched)
            return step(self, number)

        patched.setattr(Trainer, "step", shrink)
        with pytest.raises(TrainingError, match="not enough memory for 8 scans") as caught:
            run_train(tiny_cohort_16, tmp_path / "c", settings, seed=4)
    error = caught.value
    assert (error.exit_code, error.field, error.value) == (1, "train.micro_batch", 8)
    assert "the state of step 6 is kept" in error.problem
    found = re.search(r"train\.micro_batch=(\d+)", error.remedy)
    assert found
    assert int(found.group(1)) == 2
    assert "train.checkpoint_activations=true" in error.remedy

    seen = allocator_of(3, monkeypatch)
    smaller = settings.model_copy(update={"micro_batch": int(found.group(1))})
    reference = run_train(tiny_cohort_16, tmp_path / "c", smaller, seed=4)
    assert reference.counts["steps"] == 12
    assert seen == [2] * 4 * 6


def test_memory_that_suffices_for_no_scan_is_said(
    tiny_cohort_16: CohortRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    allocator_of(0, monkeypatch)
    with pytest.raises(TrainingError, match="no state was saved yet") as caught:
        run_train(tiny_cohort_16, tmp_path / "c", SETTINGS, seed=4)
    assert "Not even one scan fits" in caught.value.remedy


def test_the_probe_makes_do_with_the_memory_there_is(
    tiny_cohort_16: CohortRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = allocator_of(3, monkeypatch)
    settings = TrainSettings(**{**FIELDS, "num_steps": 1, "micro_batch": 2, "precision": "auto"})
    run_train(tiny_cohort_16, tmp_path / "c", settings, seed=4)
    assert max(seen) == 2
    settings = TrainSettings(**{**FIELDS, "num_steps": 1, "precision": "auto"})
    with pytest.raises(TrainingError, match=r"train\.micro_batch=2"):
        run_train(tiny_cohort_16, tmp_path / "d", settings, seed=4)


def test_a_loss_that_is_not_finite_names_step_scans_and_noise_levels(
    tiny_cohort_16: CohortRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forward, at = Denoiser.forward, [0]
    levels: list[torch.Tensor] = []

    def overflow(self: Denoiser, x: torch.Tensor, sigma: torch.Tensor, *rest: Any) -> torch.Tensor:
        at[0] += 1
        result = forward(self, x, sigma, *rest)
        if at[0] == 8:
            levels.append(sigma.sort().values)
            return torch.where((sigma >= levels[0][-3]).reshape(-1, 1, 1, 1), torch.inf, result)
        return result

    monkeypatch.setattr(Denoiser, "forward", overflow)
    with pytest.raises(TrainingError, match="the loss of step 8 is not finite for 3 of 8 scans") as caught:
        run_train(tiny_cohort_16, tmp_path / "c", SETTINGS, seed=4)
    error = caught.value
    assert f"at noise levels {float(levels[0][-3]):.3g} to {float(levels[0][-1]):.3g}" in error.problem
    assert "the scans themselves are finite" in error.problem
    assert "learning rate" in error.problem
    assert "fp32; the state of step 6 is kept" in error.problem
    # fp32 is in use already: the remedy is another one.
    assert error.field == "train.learning_rate"
    assert "precision" not in error.remedy
    newest = sorted((tmp_path / "c" / "state").iterdir())[-1]
    assert read_tensors(newest).metadata["step"] == 6


def test_in_bf16_the_remedy_is_fp32(
    tiny_cohort_16: CohortRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step = Trainer.step

    def run_away(self: Trainer, number: int) -> torch.Tensor:
        if number == 4:
            self.parameters[0].data.fill_(float("inf"))
            self.one_step.working.take_weights()
        return step(self, number)

    monkeypatch.setattr(Trainer, "step", run_away)
    settings = TrainSettings(**{**FIELDS, "precision": "bf16"})
    with pytest.raises(TrainingError, match="step 5") as caught:
        run_train(tiny_cohort_16, tmp_path / "c", settings, seed=4)
    assert caught.value.field == "train.precision"
    assert "train.precision=fp32" in caught.value.remedy


@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "not finite"), (np.inf, "not finite"), (1.5, "outside")]
)
def test_scans_that_cannot_be_learnt_from_are_refused(value: float, words: str) -> None:
    images = np.zeros((2, 1, 8, 8), np.float32)
    require_usable(images)
    images[1, 0, 3, 4] = value
    with pytest.raises(DataError, match=words) as caught:
        require_usable(images)
    assert caught.value.exit_code == 3


def test_nan_pixels_reach_the_user_as_data_that_cannot_be_used(
    tiny_cohort_16: CohortRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.artifacts.cohort import Cohort

    images = Cohort.images

    def spoilt(self: Cohort, rows: Any) -> Any:
        return np.where(
            np.asarray(rows)[:, None, None, None] % 5 == 0, np.float32(np.nan), images(self, rows)
        )

    monkeypatch.setattr(Cohort, "images", spoilt)
    with pytest.raises(DataError, match="not finite"):
        run_train(tiny_cohort_16, tmp_path / "c", SETTINGS, seed=4)


def test_a_time_budget_is_recorded_kept_and_ends_the_learning_rate_at_zero(
    tiny_cohort_16: CohortRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import csv
    import json

    settings = TrainSettings(
        **{**FIELDS, "num_steps": 100_000, "max_minutes": 0.05, "checkpoint_every_steps": 10}
    )
    whole = run_train(tiny_cohort_16, tmp_path / "whole", settings, seed=4)
    record = json.loads((whole.path / "machine.json").read_text())
    steps = record["decisions"][-1][1]
    assert 3 < steps < 100_000
    assert whole.counts["steps"] == read_checkpoint_info(whole.path).num_steps == steps
    with (whole.path / "progress.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert int(rows[-1]["step"]) == steps
    assert float(rows[-1]["learning_rate"]) < 0.05 * settings.learning_rate

    # The same record gives the same weights, however often the run was stopped and whatever the clock says.
    out, step = tmp_path / "stopped", Trainer.step
    out.mkdir(mode=0o700)
    for name in ("inputs.json", "machine.json"):
        (out / name).write_bytes((whole.path / name).read_bytes())
    monkeypatch.setattr("pipeline.cost.time_budget.TimeBudget.review", lambda *_: None)

    def stop(self: Trainer, number: int) -> torch.Tensor:
        if number == steps // 2:
            raise KeyboardInterrupt
        return step(self, number)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Trainer, "step", stop)
        run_train(tiny_cohort_16, out, settings, seed=4)
    assert run_train(tiny_cohort_16, out, settings, seed=4).digest == whole.digest
