"""Part c: a step on the device against the same on the CPU, bf16 against fp32, killed against undisturbed."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import statistics
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path

import torch

from models.devices import computing, default_device
from models.diffusion.denoiser import Denoiser
from models.diffusion.objective import denoising_loss
from models.network.network import NetworkSpec
from models.optim.optimiser import Optimiser
from models.optim.precision import Precision, apply_precision
from pipeline.records import CohortRef
from pipeline.train import run_train
from pipeline.train.settings import TrainSettings
from tests.experiments.benchmarks.gpu import loops
from tests.experiments.benchmarks.gpu.job import NO_TIME, Job
from tests.experiments.benchmarks.rows import Row, Skipped

STEP_GOALS = {"loss": 1e-5, "gradient": 1e-4, "changed weights": 1e-3}
"""Rounding grows on its way back through the network, and once more where Muon divides by singular values."""
CURVE_GOAL = 0.05
SIZE, SCANS, BATCH = 32, 256, 64
RUN_SECONDS = 25.0


def run(job: Job) -> Iterator[Row | Skipped]:
    """Compare, the quickest first."""
    with computing(default_device()):
        yield from _one_step()
        if job.has(2 * RUN_SECONDS / 3):
            yield _curves(job)
        else:
            yield Skipped("loss curve in bf16 beside fp32", NO_TIME)
    if job.has(RUN_SECONDS):
        yield _killed(job)
    else:
        yield Skipped("weights after a kill, against an undisturbed run", NO_TIME)


def _one_step() -> Iterator[Row]:
    """Do one fp32 step of equal weights on equal scans and noise, on the device and on the CPU."""
    generator = torch.Generator().manual_seed(0)
    spec = NetworkSpec((SIZE, SIZE), 3, **TrainSettings().network_fields((SIZE, SIZE)))
    given = (
        torch.rand(8, 1, SIZE, SIZE, generator=generator) * 2 - 1,
        torch.arange(8) % 3,
        torch.exp(torch.randn(8, generator=generator)),
        torch.randn(8, 1, SIZE, SIZE, generator=generator),
    )
    # On a CPU, where both would be one, another layout stands for another device.
    device = default_device()
    here = _stepped(spec, given, device, channels_last=True)
    there = _stepped(spec, given, torch.device("cpu"), channels_last=False)
    for (name, goal), one, other in zip(STEP_GOALS.items(), here, there, strict=True):
        error = float((one - other).norm() / other.norm())
        words = f"relative error, {device.type} against CPU, {SIZE}x{SIZE}, fp32"
        yield Row(f"one step on both devices: {name}", (error,), goal, False, words)


def _stepped(
    spec: NetworkSpec, given: tuple[torch.Tensor, ...], device: torch.device, *, channels_last: bool
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return loss, gradient and change of the weights of one step, fp64 on the CPU."""
    denoiser = Denoiser(spec, seed=1)
    with torch.no_grad():
        # The last layer begins at zero, which would hide everything before it.
        for parameter in denoiser.network.out[-1].parameters():  # type: ignore[index, union-attr]
            parameter.fill_(0.01)
    apply_precision(denoiser.to(device), Precision("fp32", channels_last))
    clean, labels, sigma, noise = (one.to(device) for one in given)
    before = [parameter.detach().clone() for parameter in denoiser.parameters()]
    optimizer = Optimiser(denoiser.named_parameters(), name="muon", weight_decay=0.0)
    weight = denoiser.loss_weight(sigma)
    loss = denoising_loss(denoiser, clean, labels, sigma=sigma, noise=noise, weight=weight).mean()
    loss.backward()
    gradients = [parameter.grad for parameter in denoiser.parameters() if parameter.grad is not None]
    gradient = _flat(gradients)
    optimizer.step(1e-3)
    change = [a.detach() - b for a, b in zip(denoiser.parameters(), before, strict=True)]
    return loss.detach().double().cpu().reshape(1), gradient, _flat(change)


def _flat(tensors: list[torch.Tensor]) -> torch.Tensor:
    return torch.cat([tensor.detach().cpu().double().contiguous().flatten() for tensor in tensors])


def _curves(job: Job) -> Row:
    """Train equal scans, noise and weights in both, and compare the means of the losses as they fall."""
    steps = job.sizes.curve_steps
    cohort = loops.noise_cohort(job.scratch / "curves", SIZE, SCANS)
    curves = []
    for precision in (Precision("bf16", True), Precision("fp32", True)):
        settings = loops.recipe_settings(job.sizes, SIZE, batch_size=BATCH, num_steps=steps)
        own = loops.trainer(cohort, settings, precision)
        losses = torch.stack([own.step(step) for step in range(steps)]).tolist()
        own.feed.close()
        width = max(1, steps // 6)
        curves.append([statistics.fmean(losses[at : at + width]) for at in range(0, steps, width)])
    difference = max(abs(a - b) / abs(b) for a, b in zip(*curves, strict=True))
    words = f"{steps} steps; bf16 {_words(curves[0])}, fp32 {_words(curves[1])}"
    name = "loss curve in bf16 beside fp32, largest relative difference"
    return Row(name, (difference,), CURVE_GOAL, False, words)


def _words(curve: list[float]) -> str:
    return " ".join(f"{value:.4f}" for value in curve)


def _killed(job: Job) -> Row:
    """Kill a training in the middle, let another process go on with it, and compare the weights by bit."""
    steps = max(4, job.sizes.curve_steps // 2)
    settings = loops.recipe_settings(
        job.sizes,
        SIZE,
        network="small",
        batch_size=BATCH,
        num_steps=steps,
        checkpoint_every_steps=2,
        compile="off",
        precision="bf16",
    )
    cohort = loops.noise_cohort(job.scratch / "killed", SIZE, SCANS)
    whole = _in_a_process(cohort, job.scratch / "whole", settings, 0)
    with contextlib.suppress(BrokenProcessPool):
        _in_a_process(cohort, job.scratch / "torn", settings, steps // 2)
    resumed = _in_a_process(cohort, job.scratch / "torn", settings, 0)
    words = f"{steps} steps in bf16, SIGKILL at step {steps // 2}, three processes; the weights' digests"
    name = "weights after a kill differ from those of an undisturbed run"
    return Row(name, (float(whole != resumed),), 0, False, f"{words} {whole[:12]} {resumed[:12]}")


def _in_a_process(cohort: CohortRef, out: Path, settings: TrainSettings, killed_at: int) -> str:
    # A fork could not use the accelerator that this process has opened; without one it saves the imports.
    start = get_context("fork" if default_device().type == "cpu" else "spawn")
    with ProcessPoolExecutor(1, mp_context=start) as process:
        return process.submit(train_digest, cohort, out, settings, killed_at).result()


def train_digest(cohort: CohortRef, out: Path, settings: TrainSettings, killed_at: int) -> str:
    """Run the train stage and return the digest of its weights; kill this process at a step if asked to."""
    import pipeline.train.loop as loop

    if killed_at:
        taken = loop.Trainer.step

        def step(self: loop.Trainer, number: int) -> torch.Tensor:
            if number == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)
            return taken(self, number)

        loop.Trainer.step = step  # type: ignore[method-assign]
    checkpoint = run_train(cohort, out, settings, seed=3).path
    return hashlib.sha256((checkpoint / "model.safetensors").read_bytes()).hexdigest()
