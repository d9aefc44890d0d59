"""A training with learned loss weighting learns it, and goes on from a kill as if there had been none."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from models.checkpoint import read_tensors
from pipeline.records import CohortRef
from pipeline.train import TrainSettings, run_train
from tests import tiny

FIELDS: Mapping[str, Any] = {
    **tiny.TRAIN,
    "num_steps": 6,
    "attention": (False, False),
    "ema_snapshots": 0,
    "checkpoint_every_steps": 4,
    "loss_weighting": "learned",
}


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_its_state_is_saved_and_gone_on_with(tiny_cohort_16: CohortRef, tmp_path: Path, dtype: str) -> None:
    settings = TrainSettings(**{**FIELDS, "precision": dtype})
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
    learned = run_train(tiny_cohort_16, tmp_path / "a", TrainSettings(**FIELDS), seed=3)
    plain = TrainSettings(**{**FIELDS, "loss_weighting": "edm"})
    assert run_train(tiny_cohort_16, tmp_path / "b", plain, seed=3).digest != learned.digest
