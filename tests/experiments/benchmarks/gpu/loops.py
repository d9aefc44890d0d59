"""Trainings whose steps are timed: ours as the train stage builds it, and peers'."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models import devices
from models.diffusion.denoiser import Denoiser
from models.network.network import NetworkSpec
from models.optim.memory import out_of_memory
from models.optim.precision import Precision, precisions_of
from pipeline.artifacts.cohort import Cohort
from pipeline.distributed.process_group import Ranks
from pipeline.records import CohortRef
from pipeline.train.latent.sources import PixelSource
from pipeline.train.loop import Trainer
from pipeline.train.machine_plan import MachinePlan
from pipeline.train.monitoring.timing import Timing
from pipeline.train.settings import TrainSettings
from tests.cohorts import write_cohort
from tests.experiments.benchmarks.gpu.sizes import Sizes
from tests.experiments.benchmarks.workload import workload

WARM_UP = 3
AT_ONCE = 10


def noise_cohort(folder: Path, size: int, scans: int) -> CohortRef:
    """Write a cohort of noise: what is timed does not depend on what the images show."""
    rng = np.random.default_rng(size)
    pixels = rng.integers(0, 256, (scans, 1, size, size), dtype=np.uint8)
    return write_cohort(folder, pixels=pixels, labels=(np.arange(scans) // 2) % 3, seed=size)


def recipe_settings(sizes: Sizes, size: int, **changes: Any) -> TrainSettings:
    """Return the training settings of the `gpu` recipe with the proof's network and batch."""
    chosen = workload("gpu", size, network=sizes.network).settings
    fields = {**chosen.model_dump(), "batch_size": sizes.batch, "ema_snapshots": 0, **sizes.layers, **changes}
    return TrainSettings.model_validate({**fields, "ema_length": fields["ema_lengths"][0]})


def preferred(device: torch.device) -> Precision:
    """Return the arithmetic that a device's probe tries first."""
    return precisions_of(device)[0]


def trainer(
    cohort: CohortRef,
    settings: TrainSettings,
    precision: Precision,
    timing: Timing | None = None,
    ranks: Ranks | None = None,
) -> Trainer:
    """Build the train stage's own loop, which writes nothing; close its `feed` afterwards."""
    forget_peak()
    opened, device = Cohort(cohort.path), devices.default_device()
    data = settings.data_fields(opened.info.image_size)
    layers = settings.network_fields(data["image_size"])
    spec = NetworkSpec.from_dict({**data, "num_classes": len(opened.info.classes), **layers})
    plan = MachinePlan(device, torch.get_num_threads(), precision, micro_batch=settings.micro_batch)
    source = PixelSource(opened)
    return Trainer(
        opened,
        None,
        settings,
        Denoiser(spec),
        plan,
        source=source,
        seed=0,
        inputs_digest="",
        timing=timing,
        ranks=ranks,
    )


def rates(step: Callable[[int], object], batch: int, sizes: Sizes) -> tuple[float, ...]:
    """Return images a second of each round, after steps that are not timed.

    Args:
        step: does one step, given its number.
        batch: images a step.
        sizes: rounds, and the seconds of each.
    """
    device, number, found = devices.default_device(), 0, []

    def several(count: int) -> float:
        nonlocal number
        started = time.perf_counter()
        for _ in range(count):
            step(number)
            number += 1
        devices.synchronise(device)
        return time.perf_counter() - started

    several(WARM_UP)
    # Waiting after each step would keep the host from running ahead; never waiting would let it run too far.
    at_once = max(1, min(AT_ONCE, int(sizes.step_seconds / 4 / several(1))))
    for _ in range(sizes.rounds):
        seconds, done = 0.0, 0
        while seconds < sizes.step_seconds:
            seconds += several(at_once)
            done += at_once
        found.append(done * batch / seconds)
    return tuple(found)


def training_rates(
    cohort: CohortRef, sizes: Sizes, size: int, batch: int, precision: Precision
) -> tuple[float, ...]:
    """Return images a second of each round of a training of its own, at a size and batch."""
    own = trainer(cohort, recipe_settings(sizes, size, batch_size=batch), precision)
    try:
        return rates(own.step, batch, sizes)
    finally:
        own.feed.close()


def fitting(attempt: Callable[[int], Any], batch: int) -> tuple[int, Any]:
    """Return the first of a batch and its halves that fits in memory, with what the attempt returned.

    Raises:
        RuntimeError, MemoryError: not even one image fits.
    """
    while True:
        try:
            return batch, attempt(batch)
        except (RuntimeError, MemoryError) as error:
            if batch == 1 or not out_of_memory(error):
                raise
        batch //= 2
        forget_peak()


@contextlib.contextmanager
def chosen(**changes: Any) -> Iterator[None]:
    """Compute inside the block as if the table of choices had other values for this device."""
    kind = devices.default_device().type
    before = devices.choices(kind)
    devices._CHOICES[kind] = dataclasses.replace(before, **changes)
    try:
        yield
    finally:
        devices._CHOICES[kind] = before


def peak_memory() -> tuple[float, float]:
    """Return the largest memory of tensors on the GPU, and what torch had reserved, GiB; 0 elsewhere."""
    if devices.default_device().type != "cuda":
        return 0.0, 0.0
    return torch.cuda.max_memory_allocated() / 2**30, torch.cuda.max_memory_reserved() / 2**30


def compiling_failed(own: Trainer) -> bool:
    """Whether a trainer that was to compile its network had to do without."""
    return bool(getattr(own.one_step.working.compute, "failed", False))


def forget_peak() -> None:
    """Begin a new measurement of memory, without what earlier trainings and compilers left."""
    device = devices.default_device()
    torch.compiler.reset()
    gc.collect()
    devices.release_memory(device)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
