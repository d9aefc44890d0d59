"""As many scans at a time as fit; where not even one does, an error names what would."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path

import pytest
import torch

from models.diffusion.denoiser import Denoiser
from models.network.spec import NetworkSpec
from models.optim.memory import step_bytes
from models.optim.precision import Precision
from pipeline.errors import TrainingError
from pipeline.records import CohortRef
from pipeline.train import TrainSettings, memory_plan, plan, run_train
from pipeline.train.machine_plan import FILE_NAME
from pipeline.train.memory_plan import USABLE, scans_that_fit
from tests import tiny

FP32, CPU = Precision("fp32", channels_last=False), torch.device("cpu")


def denoiser(side: int = 64) -> Denoiser:
    spec = NetworkSpec(
        (side, side), 2, channels=(8, 8), attention=(False, False), num_head_channels=8, num_norm_groups=8
    )
    return Denoiser(spec)


def fitting(monkeypatch: pytest.MonkeyPatch, free: float | None, **changes: object) -> int | None:
    monkeypatch.setattr(memory_plan, "free_memory", lambda _device: None if free is None else int(free))
    asked: dict[str, object] = {"count": 24, "averages": 2, "recompute": False} | changes
    made = denoiser()
    each = step_bytes(made, recompute=False)
    return scans_that_fit(made, FP32, CPU, each=each, **asked)  # type: ignore[arg-type]


def test_all_scans_are_computed_at_once_where_they_fit_or_nobody_knows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert fitting(monkeypatch, 2**36) is None
    assert fitting(monkeypatch, None) is None


@pytest.mark.parametrize(("room", "expected"), [(23.5, 12), (11.5, 6), (5.5, 3), (2.9, 2), (1.1, 1)])
def test_halves_that_fit_beside_the_weights_are_chosen_and_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, room: float, expected: int
) -> None:
    made = denoiser()
    states = 4 * (4 + 2) * sum(parameter.numel() for parameter in made.parameters())
    free = (room * step_bytes(made, recompute=False) + states) / USABLE
    with caplog.at_level(logging.INFO):
        assert fitting(monkeypatch, free) == expected
        assert f"{expected} of 24 scans are computed at a time" in caplog.text
    # Of several processes that share the memory, each has its part.
    assert fitting(monkeypatch, 4 * free, processes=4) == expected


def test_an_error_names_a_size_that_fits(monkeypatch: pytest.MonkeyPatch) -> None:
    made = denoiser()
    states = 4 * 6 * sum(parameter.numel() for parameter in made.parameters())
    free = (0.4 * step_bytes(made, recompute=False) + states) / USABLE
    with pytest.raises(TrainingError, match="one scan of 64x64 at a time takes") as caught:
        fitting(monkeypatch, free)
    found = re.search(r"ingest\.image_size\) ?|Ingest at (\d+) pixels", caught.value.remedy)
    assert found is not None and found[1] == "40"
    smaller = denoiser(40)
    each = step_bytes(smaller, recompute=False)
    assert scans_that_fit(smaller, FP32, CPU, each=each, count=1, averages=2, recompute=False) is None
    assert ("train.checkpoint_activations=true" in caught.value.remedy) == (
        1.0 * step_bytes(made, recompute=True) <= 0.4 * step_bytes(made, recompute=False)
    )
    with pytest.raises(TrainingError) as caught:
        fitting(monkeypatch, 1000)
    assert "Ingest at" not in caught.value.remedy and "train.network" in caught.value.remedy


def test_a_training_records_what_fits_and_goes_on_with_it(
    tiny_cohort: CohortRef, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TrainSettings(**{**tiny.TRAIN, "num_steps": 2, "batch_size": 8})
    whole = run_train(tiny_cohort, tmp_path / "whole", settings, seed=3)
    network = plan.network_of(settings, plan.workload_of(tiny_cohort)).denoiser()
    states = (4 * (4 + len(settings.ema_lengths)) + 4) * sum(own.numel() for own in network.parameters())
    free = int((3.5 * step_bytes(network, recompute=False) + states) / USABLE)
    monkeypatch.setattr(memory_plan, "free_memory", lambda _device: free)
    parts = run_train(tiny_cohort, tmp_path / "parts", settings, seed=3)
    assert json.loads((parts.path / FILE_NAME).read_text())["micro_batch"] == 2
    assert json.loads((whole.path / FILE_NAME).read_text())["micro_batch"] is None
    # The dry run plans with the same number.
    assert (
        plan.train_speed(settings, plan.network_of(settings, plan.workload_of(tiny_cohort))).more_bytes >= 0
    )
    monkeypatch.setattr(memory_plan, "free_memory", lambda _device: 1000)
    with pytest.raises(TrainingError, match="at a time takes"):
        run_train(tiny_cohort, tmp_path / "nothing", settings, seed=3)
