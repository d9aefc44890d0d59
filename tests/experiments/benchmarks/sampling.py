"""Wall time of the sample stage over the time of its network passes alone."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from torch.nn import functional

from models.optim.allocator import held_memory
from models.samplers import SAMPLERS
from pipeline.artifacts.checkpoint import load_denoiser
from pipeline.sample import run_sample
from pipeline.sample.settings import SampleSettings
from pipeline.train import run_train
from pipeline.train.settings import TrainSettings
from tests.cohorts import write_cohort
from tests.experiments.benchmarks.rows import Row

NUM_CLASSES = 3


def measure(rounds: int = 3, per_class: int = 128, train_steps: int = 10) -> list[Row]:
    """Sample candidates of three classes, then time the same number of bare network passes.

    Args:
        rounds: rounds of both.
        per_class: candidates of each class a round.
        train_steps: optimiser steps of the checkpoint: what it draws does not matter.
    """
    images = per_class * NUM_CLASSES
    settings = SampleSettings(per_class=per_class, overdraw=1.0, batch_size=min(64, images))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cohort = write_cohort(folder / "cohort", num_classes=NUM_CLASSES)
        trained = TrainSettings(num_steps=train_steps)
        checkpoint = run_train(cohort, folder / "checkpoint", trained, seed=0)
        pairs = []
        for index in range(rounds):
            started = time.perf_counter()
            run_sample(checkpoint, folder / f"candidates-{index}", settings, seed=index)
            wall = time.perf_counter() - started
            pairs.append((wall, _network_seconds(checkpoint.path, settings, images)))
    rate = images / pairs[-1][0]
    detail = f"{images} candidates at 32x32 in {pairs[-1][0]:.1f} s ({rate:.1f} a second, all passes counted)"
    return [Row("sampling wall time over network time", tuple(w / n for w, n in pairs), 1.10, False, detail)]


@torch.no_grad()
def _network_seconds(checkpoint: Path, settings: SampleSettings, images: int) -> float:
    """Time the passes that the sampler needs, on the bare network inside the denoiser."""
    denoiser, _ = load_denoiser(checkpoint)
    entry = SAMPLERS[settings.sampler]
    passes = entry.num_passes(settings.num_steps or entry.recommended_steps)
    batches = -(-images // settings.batch_size)
    noise = torch.randn(settings.batch_size, *denoiser.sample_shape)
    x = functional.pixel_unshuffle(noise, denoiser.spec.patch_size).to(denoiser.compute_dtype)
    times = torch.zeros(settings.batch_size)
    condition = (denoiser.null_codes(settings.batch_size), None)
    # With memory held as the stage holds it, or the ceiling would be too low.
    with held_memory():
        denoiser.network(x, times, class_labels=condition)
        started = time.perf_counter()
        for _ in range(passes * batches):
            denoiser.network(x, times, class_labels=condition)
        return time.perf_counter() - started
