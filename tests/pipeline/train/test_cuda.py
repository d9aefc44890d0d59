"""What only a GPU can show: no step waits, kernels give the same bits, graphs compute the same."""

from __future__ import annotations

import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from models.devices import computing, default_device, to_device
from models.diffusion.denoiser import Denoiser
from models.diffusion.guidance import Guidance, guided_denoise
from models.network.network import NetworkSpec
from models.noise import fresh_noise
from models.optim.compiling import compiled
from models.optim.precision import Precision, apply_precision, trial_batch
from models.samplers import SAMPLERS
from pipeline.distributed.process_group import Ranks
from pipeline.train.latent.sources import PixelSource
from pipeline.train.machine_plan import MachinePlan
from pipeline.train.monitoring.timing import NoTiming
from pipeline.train.prefetch import Feed
from pipeline.train.settings import TrainSettings
from pipeline.train.step import TrainingStep

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

BATCH, SIZE = 8, 32
BF16 = Precision("bf16", channels_last=True)
SOURCE = PixelSource(None)  # type: ignore[arg-type]  # nothing is read: the scans are given


@pytest.fixture(autouse=True)
def _alike_every_time() -> Iterator[None]:
    with computing(default_device()):
        yield


def spec_of(settings: TrainSettings) -> NetworkSpec:
    return NetworkSpec((SIZE, SIZE), 3, **settings.network_fields((SIZE, SIZE)))


def made_step(precision: Precision = BF16) -> TrainingStep:
    settings = TrainSettings(batch_size=BATCH, num_steps=10, augment=0.5)
    plan = MachinePlan(default_device(), 1, precision)
    denoiser = Denoiser(spec_of(settings), seed=1)
    return TrainingStep(denoiser, settings, plan, Ranks(), seed=0, timing=NoTiming(), source=SOURCE)


def batch() -> tuple[torch.Tensor, torch.Tensor]:
    device = default_device()
    images = torch.linspace(-1, 1, BATCH * SIZE * SIZE, device=device).reshape(BATCH, 1, SIZE, SIZE)
    return images, torch.zeros(BATCH, 1, dtype=torch.int64, device=device)


@pytest.fixture
def no_waiting() -> Iterator[None]:
    """Let torch raise where the host would wait; used after a first step, in which memory is had."""
    yield
    torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("precision", [BF16, Precision("fp32", False)], ids=lambda own: own.name)
def test_cuda_a_step_never_waits(precision: Precision) -> None:
    step, given = made_step(precision), batch()
    for number in range(2):
        step.run(number, *given, 1e-3)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    loss = step.run(2, *given, 1e-3)
    torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(loss)


@pytest.mark.usefixtures("no_waiting")
@pytest.mark.parametrize("name", SAMPLERS)
def test_cuda_a_sampler_never_waits(name: str) -> None:
    device, settings, entry = default_device(), TrainSettings(), SAMPLERS[name]
    denoiser = apply_precision(Denoiser(spec_of(settings)).to(device), BF16).eval()
    codes = torch.zeros(2, dtype=torch.int64, device=device)
    denoise = guided_denoise(denoiser, codes, Guidance(2.0, 0.1, 10.0))
    noise, fresh = torch.zeros(2, 1, SIZE, SIZE, device=device), fresh_noise([0, 1], (1, SIZE, SIZE))
    entry.sample(denoise, noise, entry.schedule(3), fresh)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    drawn = entry.sample(denoise, noise, entry.schedule(3), fresh)
    torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(drawn).all()


@pytest.mark.parametrize("precision", [BF16, Precision("fp32", False)], ids=lambda own: own.name)
def test_cuda_two_trainings_end_in_the_same_bits_and_nothing_warns_of_chance(precision: Precision) -> None:
    ends = []
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*deterministic.*")
        for _ in range(2):
            step = made_step(precision)
            for number in range(4):
                step.run(number, *batch(), 1e-3)
            ends.append([parameter.detach().clone() for parameter in step.parameters])
    assert all(torch.equal(one, other) for one, other in zip(*ends, strict=True))


def test_cuda_fused_attention_computes_what_plain_attention_does() -> None:
    denoiser = Denoiser(spec_of(TrainSettings()), seed=1).to(default_device())
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    images, codes = batch()
    sigma = torch.ones(BATCH, device=images.device)
    with torch.no_grad():
        plain = denoiser(images, sigma, codes)
        fused = apply_precision(denoiser, BF16)(images, sigma, codes)
    assert float((fused - plain).norm() / plain.norm()) < 0.03


def test_cuda_graphs_compute_what_the_network_does_and_leave_gradients_alone() -> None:
    torch.manual_seed(0)
    denoiser = apply_precision(Denoiser(spec_of(TrainSettings()), seed=1).to(default_device()), BF16)
    denoiser.train()
    call = compiled(denoiser, graphs=True)
    trial_batch(denoiser, BATCH)
    wanted = [parameter.grad.clone() for parameter in denoiser.parameters() if parameter.grad is not None]
    for _ in range(4):
        denoiser.zero_grad(set_to_none=True)
        trial_batch(denoiser, BATCH, call)
    found = [parameter.grad for parameter in denoiser.parameters() if parameter.grad is not None]
    assert not call.failed
    errors = [float((a - b).norm() / b.norm().clamp_min(1e-6)) for a, b in zip(found, wanted, strict=True)]
    assert np.median(errors) < 0.05


def test_cuda_copies_come_from_page_locked_memory_of_this_process_s_gpu() -> None:
    device, seen = default_device(), []

    def gather(step: int) -> tuple[np.ndarray]:
        seen.append((threading.current_thread().name, torch.cuda.current_device()))
        return (np.full((2, 3), step, dtype=np.float32),)

    feed = Feed(gather, device)
    for step in range(3):
        (taken,) = feed.take(step)
        assert taken.device == device and bool((taken == step).all())
    feed.close()
    assert {number for _, number in seen} == {device.index}
    assert to_device(torch.zeros(3), device).device == device


def test_cuda_a_saved_training_goes_on_from_another_process_s_memory(tmp_path: Path) -> None:
    """State is written from the GPU and read back into it."""
    from models.checkpoint import read_tensors, write_tensors

    step = made_step()
    step.run(0, *batch(), 1e-3)
    state = step.optimizer.tensors()
    write_tensors(tmp_path / "state.safetensors", state, {"step": 1})
    read = read_tensors(tmp_path / "state.safetensors", state).tensors
    assert all(torch.equal(read[name], tensor.cpu()) for name, tensor in state.items())
