"""A state written aside is the one of its step, whatever training does meanwhile, and its errors are told."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from models.diffusion.denoiser import Denoiser
from models.network.network import NetworkSpec
from models.optim.ema import PowerFunctionAverages
from models.optim.optimiser import Optimiser
from models.optim.precision import Precision
from pipeline.artifacts.cohort import Cohort
from pipeline.errors import StorageError
from pipeline.records import CohortRef
from pipeline.train import state as module
from pipeline.train.latent.sources import PixelSource
from pipeline.train.loop import Trainer
from pipeline.train.machine_plan import MachinePlan
from pipeline.train.settings import TrainSettings
from pipeline.train.state import TrainingState
from tests.tiny import TRAIN

SPEC = NetworkSpec((8, 8), 2, channels=(8,), attention=(False,), num_head_channels=8, num_norm_groups=8)


def made(folder: Path, *, aside: bool = True) -> tuple[TrainingState, Denoiser]:
    denoiser = Denoiser(SPEC, seed=1)
    optimizer = Optimiser(denoiser.named_parameters(), name="adamw", weight_decay=0.0)
    ema: PowerFunctionAverages[Denoiser] = PowerFunctionAverages(denoiser, [0.1])
    fields: dict[str, Any] = {"ema": ema, "optimizer": optimizer, "inputs_digest": "d"}
    return TrainingState(folder, model=denoiser, **fields, aside=aside), denoiser


def test_what_is_written_aside_is_the_state_at_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state, denoiser = made(tmp_path)
    go_on, written = threading.Event(), module.write_tensors

    def slow(path: Path, tensors: Mapping[str, Tensor], header: Mapping[str, Any]) -> None:
        assert go_on.wait(30)
        written(path, tensors, header)

    monkeypatch.setattr(module, "write_tensors", slow)
    before = [parameter.detach().clone() for parameter in denoiser.parameters()]
    state.save(5)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(1.0)
    assert not list((tmp_path / "state").glob("step-*"))
    go_on.set()
    assert state.saved_step == 5
    state.close()
    other, loaded = made(tmp_path)
    assert other.load_newest() == 5
    assert all(torch.equal(one, two) for one, two in zip(before, loaded.parameters(), strict=True))


@pytest.mark.parametrize("aside", [False, True])
def test_a_state_that_cannot_be_written_is_told_and_the_one_before_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, aside: bool
) -> None:
    state, _ = made(tmp_path, aside=aside)
    state.save(1)
    state.finish()

    def full(*_arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_tensors", full)
    with pytest.raises(StorageError):
        state.save(2)
        state.finish()
    assert state.saved_step == 1
    state.close()
    monkeypatch.undo()
    assert made(tmp_path)[0].load_newest() == 1


def test_one_state_is_written_at_a_time_and_two_are_kept(tmp_path: Path) -> None:
    state, _ = made(tmp_path)
    for step in range(1, 6):
        state.save(step)
    state.close()
    assert state.saved_step == 5
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == [
        "step-000000004.safetensors",
        "step-000000005.safetensors",
    ]


def test_a_trainer_that_nobody_needs_is_freed_at_once(tiny_cohort_16: CohortRef) -> None:
    """On a GPU, what it holds would else be in the way of the next one until the interpreter looks."""
    settings = TrainSettings(**TRAIN, num_steps=4)
    cohort = Cohort(tiny_cohort_16.path)
    spec = NetworkSpec((16, 16), 3, **settings.network_fields((16, 16)))
    plan = MachinePlan(torch.device("cpu"), 1, Precision("fp32", channels_last=False))
    trainer = Trainer(
        cohort, None, settings, Denoiser(spec), plan, source=PixelSource(cohort), seed=0, inputs_digest=""
    )
    trainer.step(0)
    trainer.feed.close()
    held = weakref.ref(trainer)
    gc.disable()
    try:
        del trainer
        assert held() is None
    finally:
        gc.enable()
