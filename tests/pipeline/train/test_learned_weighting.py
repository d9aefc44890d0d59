"""A training with learned loss weighting learns it, and goes on from a kill as if there had been none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from models.checkpoint import read_tensors
from pipeline.records import CohortRef
from pipeline.train import TrainSettings, run_train

FIELDS: dict[str, Any] = {
    "num_steps": 6,
    "batch_size": 8,
    "channels": (8, 16),
    "attention": (False, False),
    "num_head_channels": 8,
    "num_norm_groups": 8,
    "num_threads": 1,
    "grid_every_steps": 0,
    "ema_snapshots": 0,
    "checkpoint_every_steps": 4,
    "loss_weighting": "learned",
}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_its_state_is_saved_and_gone_on_with(tiny_cohort_16: CohortRef, tmp_path: Path, dtype: str) -> None:
    settings = TrainSettings(**FIELDS, precision=dtype)
    made = run_train(tiny_cohort_16, tmp_path / "c", settings, seed=3)
    last = made.path / "state" / "step-000000006.safetensors"
    before = last.read_bytes()
    assert read_tensors(last).tensors["weighting.linear.weight"].abs().max() > 0
    last.unlink()
    for name in ("reference.json", "model.safetensors", "checkpoint.json"):
        (made.path / name).unlink()
    assert run_train(tiny_cohort_16, made.path, settings, seed=3).digest == made.digest
    assert last.read_bytes() == before


def test_it_changes_what_is_learnt(tiny_cohort_16: CohortRef, tmp_path: Path) -> None:
    learned = run_train(tiny_cohort_16, tmp_path / "a", TrainSettings(**FIELDS, precision="fp32"), seed=3)
    plain = TrainSettings(**{**FIELDS, "loss_weighting": "edm"}, precision="fp32")
    assert run_train(tiny_cohort_16, tmp_path / "b", plain, seed=3).digest != learned.digest
