"""A training step and a sampler keep to one device and never make the host wait for it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from models.devices import choices
from models.diffusion.denoiser import Denoiser
from models.diffusion.guidance import Guidance, guided_denoise
from models.network.network import NetworkSpec
from models.noise import fresh_noise
from models.optim.precision import Precision
from models.samplers import SAMPLERS
from pipeline.distributed.process_group import Ranks
from pipeline.train.latent.sources import PixelSource
from pipeline.train.machine_plan import MachinePlan
from pipeline.train.monitoring.timing import NoTiming
from pipeline.train.settings import TrainSettings
from pipeline.train.step import TrainingStep
from tests.pretended import META, accelerator

BATCH = 4
FIELDS: dict[str, Any] = {
    "batch_size": BATCH,
    "channels": (8, 8),
    "num_head_channels": 8,
    "num_norm_groups": 8,
    "augment": 0.5,
    "num_steps": 10,
}
SOURCE = PixelSource(None)  # type: ignore[arg-type]  # nothing is read: the scans are given


def made_step(changes: dict[str, Any], precision: Precision, device: torch.device = META) -> TrainingStep:
    settings = TrainSettings.model_validate({**FIELDS, **changes})
    spec = NetworkSpec((16, 16), 3, conditions=(2, 2), **settings.network_fields((16, 16)))
    plan = MachinePlan(device, 1, precision, micro_batch=settings.micro_batch)
    return TrainingStep(Denoiser(spec), settings, plan, Ranks(), seed=0, timing=NoTiming(), source=SOURCE)


def batch(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    codes = torch.tensor([[0, 1, 2], [1, 0, 0], [2, 2, 1], [0, 0, 0]])
    return torch.zeros(BATCH, 1, 16, 16, device=device), codes.to(device)


@pytest.mark.parametrize(
    "precision", [Precision("bf16", True), Precision("fp32", False)], ids=lambda p: p.name
)
@pytest.mark.parametrize(
    "changes",
    [{}, {"optimizer": "adamw"}, {"micro_batch": 2, "parametrisation": "flow"}],
    ids=["plain", "adamw", "in parts"],
)
def test_a_step_never_waits(
    monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], precision: Precision
) -> None:
    step = made_step(changes, precision)
    images, codes = batch(META)
    # What is made once, at the first step, may be brought from the host.
    step.denoiser.null_codes(1, META)
    with accelerator(monkeypatch) as mode:
        losses = [step.run(number, images, codes, 1e-3) for number in range(2)]
    assert {loss.device.type for loss in losses} == {"meta"}
    assert mode.launched > 100


def test_a_wait_in_a_step_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    step = made_step({}, Precision("fp32", False))
    images, codes = batch(META)
    with accelerator(monkeypatch), pytest.raises(RuntimeError, match="makes the host wait"):
        step.run(0, images, codes * torch.tensor([0, 1, 1], device=META), 1e-3)
    with accelerator(monkeypatch), pytest.raises(RuntimeError, match="meta"):
        float(step.run(0, images, codes, 1e-3))


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("guidance", [Guidance(1.0), Guidance(2.0, 0.1, 10.0)], ids=["plain", "guided"])
def test_a_sampler_never_waits(monkeypatch: pytest.MonkeyPatch, name: str, guidance: Guidance) -> None:
    spec = NetworkSpec((16, 16), 3, **TrainSettings.model_validate(FIELDS).network_fields((16, 16)))
    denoiser = Denoiser(spec).to(META)
    # Codes are checked before the first step, which reads them once.
    monkeypatch.setattr("models.diffusion.guidance._checked", lambda own, codes: own.expand(codes))
    denoise = guided_denoise(denoiser, torch.zeros(2, dtype=torch.int64, device=META), guidance)
    noise, entry = torch.zeros(2, 1, 16, 16, device=META), SAMPLERS[name]
    with accelerator(monkeypatch):
        drawn = entry.sample(denoise, noise, entry.schedule(4), fresh_noise([0, 1], (1, 16, 16)))
    assert drawn.device == META


def test_no_float64_where_the_device_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    class Narrow(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for leaf in torch.utils._pytree.tree_leaves(out):
                if isinstance(leaf, torch.Tensor) and leaf.dtype == torch.float64:
                    raise RuntimeError(f"{func} makes float64")
            return out

    device = torch.device("cpu")
    step = made_step({}, Precision("fp32", False), device)
    with Narrow(), pytest.raises(RuntimeError, match="float64"):
        step.run(0, *batch(device), 1e-3)
    monkeypatch.setattr("models.devices._CHOICES", {"cpu": choices("mps")})
    with Narrow():
        loss = step.run(0, *batch(device), 1e-3)
    assert torch.isfinite(loss)
