"""Wall time of the sample stage over the time of its network passes alone."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch

from models.allocator import held_memory
from models.samplers import SAMPLERS
from pipeline.generator import load_denoiser
from pipeline.sample import run_sample
from pipeline.sample.settings import SampleSettings
from pipeline.train import run_train
from pipeline.train.settings import TrainSettings
from tests.benchmarks.rows import Row
from tests.cohorts import write_cohort

ROUNDS = 3
PER_CLASS = 128


def measure() -> list[Row]:
    """Sample 384 candidates a round, then time the same number of bare network passes."""
    settings = SampleSettings(per_class=PER_CLASS, overdraw=1.0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        cohort = write_cohort(folder / "cohort")
        checkpoint = run_train(cohort, folder / "checkpoint", TrainSettings(num_steps=10), seed=0)
        pairs = []
        for index in range(ROUNDS):
            started = time.perf_counter()
            run_sample(checkpoint, folder / f"candidates-{index}", settings, seed=index)
            wall = time.perf_counter() - started
            pairs.append((wall, _network_seconds(checkpoint.path, settings)))
    images = PER_CLASS * 3
    rate = images / pairs[-1][0]
    detail = f"{images} candidates at 32x32 in {pairs[-1][0]:.1f} s ({rate:.1f} a second, all passes counted)"
    return [Row("sampling wall time over network time", tuple(w / n for w, n in pairs), 1.10, False, detail)]


@torch.no_grad()
def _network_seconds(checkpoint: Path, settings: SampleSettings) -> float:
    """Time the passes that the sampler needs, on the bare network inside the denoiser."""
    denoiser, _ = load_denoiser(checkpoint)
    entry = SAMPLERS[settings.sampler]
    passes = entry.num_passes(settings.num_steps or entry.recommended_steps)
    batches = PER_CLASS * 3 // settings.batch_size
    x = torch.randn(settings.batch_size, 1, *denoiser.spec.image_size).to(denoiser.compute_dtype)
    times = torch.zeros(settings.batch_size)
    condition = (torch.zeros(settings.batch_size, 1, dtype=torch.int64), None)
    # With memory held as the stage holds it, or the ceiling would be too low.
    with held_memory():
        denoiser.network(x, times, class_labels=condition)
        started = time.perf_counter()
        for _ in range(passes * batches):
            denoiser.network(x, times, class_labels=condition)
        return time.perf_counter() - started
