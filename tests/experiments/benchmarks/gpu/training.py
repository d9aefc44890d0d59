"""Part b: training images a second, against the tutorial loop and the chip's ceiling, choice by choice."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from models.devices import computing, default_device
from models.optim.precision import Precision
from pipeline.records import CohortRef
from pipeline.train.monitoring.timing import COMPUTING
from pipeline.train.state import TrainingState
from tests.experiments.benchmarks.flops import count_flops
from tests.experiments.benchmarks.gpu import choices, kernels, loops
from tests.experiments.benchmarks.gpu.ceilings import Ceilings, measure_ceilings
from tests.experiments.benchmarks.gpu.job import NO_TIME, Job
from tests.experiments.benchmarks.overhead import SteadyTiming
from tests.experiments.benchmarks.peers import TutorialLoop
from tests.experiments.benchmarks.rows import Row, Skipped

TUTORIAL_GOAL, CEILING_GOAL, OUTSIDE_GOAL = 4.0, 0.35, 0.05
MAIN_SIZE = 64
CEILING_SIZES = (64, 128)
CHOICES_AFTER = 2
"""After so many sizes the choices are measured; the sizes that tell less come last."""
NOT_COMPILED = "torch.compile does not work here: the figures of compiled training are of none"
COMPILE_SECONDS = 45.0
"""What compiling may take: less time left than that, and it is not begun."""


def run(job: Job) -> Iterator[Row | Skipped]:
    """Time trainings of every size, the most telling one first and with all choices."""
    with computing(default_device()), compiler(job.sizes.compiler):
        ceilings = measure_ceilings(job.sizes)
        yield from ceilings.rows()
        for place, size in enumerate(job.sizes.train_pixels):
            if not job.has(4 * job.sizes.rounds * job.sizes.step_seconds):
                yield Skipped(f"training at {size}x{size}", NO_TIME)
                continue
            yield from _size(job, size, ceilings, main=place == 0)
            if place + 1 == min(CHOICES_AFTER, len(job.sizes.train_pixels)):
                yield from choices.rows(job, job.sizes.train_pixels[0])


@contextlib.contextmanager
def compiler(backend: str) -> Iterator[None]:
    """Let `torch.compile` compile with a backend inside the block."""
    original = torch.compile
    torch.compile = functools.partial(original, backend=backend)  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.compile = original


def _size(job: Job, size: int, ceilings: Ceilings, *, main: bool) -> Iterator[Row | Skipped]:
    sizes, device = job.sizes, default_device()
    cohort = loops.noise_cohort(job.scratch / f"noise-{size}", size, max(64, 4 * sizes.batch))
    arithmetic = loops.preferred(device)
    batch, plain = loops.fitting(
        lambda own: loops.training_rates(cohort, sizes, size, own, arithmetic), sizes.batch
    )
    allocated, reserved = loops.peak_memory()
    flops = _flops(job, cohort, size)
    place = f"{size}x{size}, batch {batch}, {sizes.network} network"
    memory = f"peak {allocated:.1f} GiB of tensors, {reserved:.1f} GiB reserved"
    yield Row(f"training, {arithmetic.name}", plain, None, True, f"{place}; {memory}", "images/s")
    tutorial, peer_batch = _tutorial(job, cohort, size, batch, autocast=False)
    words = f"{place}; the tutorial's batch {peer_batch}"
    yield Row("tutorial loop, fp32", tutorial, None, True, words, "images/s")
    best, words = plain, arithmetic.name
    if job.has(COMPILE_SECONDS + 2 * sizes.rounds * sizes.step_seconds):
        fast = replace(arithmetic, compiled=True)
        started = time.perf_counter()
        own = loops.trainer(cohort, loops.recipe_settings(sizes, size, batch_size=batch), fast)
        try:
            own.step(0)
            taken = time.perf_counter() - started
            compiled = loops.rates(own.step, batch, sizes)
        finally:
            own.feed.close()
        allocated, reserved = loops.peak_memory()
        memory = f"peak {allocated:.1f} GiB of tensors, {reserved:.1f} GiB reserved"
        detail = f"{place}; first step, with compiling, {taken:.1f} s; {memory}"
        yield Row(f"training, {fast.name}", compiled, None, True, detail, "images/s")
        if loops.compiling_failed(own):
            yield Skipped(f"compiling at {size}x{size}", NOT_COMPILED, met=False)
        gain = tuple(a / b for a, b in zip(compiled, plain, strict=True))
        yield Row("compiled over not compiled", gain, None, True, place)
        if max(compiled) > max(plain):
            best, words = compiled, fast.name
    else:
        yield Skipped(f"training compiled at {size}x{size}", NO_TIME)
    over = tuple(a / b for a, b in zip(best, tutorial, strict=True))
    goal = TUTORIAL_GOAL if size == MAIN_SIZE else None
    yield Row("training over the tutorial loop", over, goal, True, f"{words}; {place}")
    shares = tuple(rate * flops / ceilings.bf16 for rate in best)
    goal = CEILING_GOAL if size in CEILING_SIZES else None
    counted = f"{flops / 1e9:.2f} GFLOP an image, forward and backward; {words}; {place}"
    yield Row("training FLOP/s over the bf16 matrix-product ceiling", shares, goal, True, counted)
    if main:
        yield _outside(job, cohort, size, batch, arithmetic)
        yield _save(job, cohort, size, arithmetic)
        yield kernels.row(job, cohort, loops.recipe_settings(sizes, size, batch_size=batch), arithmetic)
        fp16, _ = _tutorial(job, cohort, size, batch, autocast=True)
        over = tuple(a / b for a, b in zip(best, fp16, strict=True))
        yield Row("training over the tutorial loop under fp16 autocast", over, None, True, place)


def _tutorial(
    job: Job, cohort: CohortRef, size: int, batch: int, *, autocast: bool
) -> tuple[tuple[float, ...], int]:
    """Return the rates of the tutorial's step on images that lie on the device, and the batch that fits."""
    device = default_device()
    spec = loops.trainer(
        cohort, loops.recipe_settings(job.sizes, size), loops.preferred(device)
    ).denoiser.spec
    spec = replace(spec, conditions=(), augment_features=0)

    def attempt(own: int) -> tuple[float, ...]:
        peer = TutorialLoop(spec, device, autocast=autocast and device.type == "cuda")
        images = torch.rand(own, 1, size, size, device=device) * 2 - 1
        labels = torch.zeros(own, dtype=torch.int64, device=device)
        return loops.rates(lambda _step: peer.step(images, labels), own, job.sizes)

    loops.forget_peak()
    # Its users have torch's own switches: deterministic kernels off, TF32 in convolutions.
    with choices.torch_defaults():
        fitting, found = loops.fitting(attempt, batch)
    return found, fitting


def _flops(job: Job, cohort: CohortRef, size: int) -> float:
    """Return the FLOPs of forward and backward, an image."""
    own = loops.trainer(
        cohort, loops.recipe_settings(job.sizes, size), Precision("fp32", channels_last=False)
    )
    own.feed.close()
    return count_flops(own.denoiser, 2)[1]


def _save(job: Job, cohort: CohortRef, size: int, precision: Precision) -> Row:
    """Return how long training stands still for a save whose files are written beside it."""
    own = loops.trainer(cohort, loops.recipe_settings(job.sizes, size), precision)
    own.feed.close()
    folder = job.scratch / "saved"
    folder.mkdir()
    state = TrainingState(
        folder, model=own.denoiser, ema=own.ema, optimizer=own.optimizer, inputs_digest="", aside=True
    )
    stood = []
    for step in range(1, job.sizes.rounds + 1):
        started = time.perf_counter()
        state.save(step)
        stood.append(time.perf_counter() - started)
        state.finish()
    written = time.perf_counter() - started
    state.close()
    (path, *_) = (folder / "state").glob("step-*")
    words = f"{path.stat().st_size / 2**20:.0f} MiB, on the disk after {written:.2f} s"
    return Row("training stands still for a save", tuple(stood), None, False, words, "s")


def _outside(job: Job, cohort: CohortRef, size: int, batch: int, precision: Precision) -> Row:
    """Return the share of a step outside forward, backward and optimiser, each waited for."""
    timing = SteadyTiming()
    own = loops.trainer(cohort, loops.recipe_settings(job.sizes, size, batch_size=batch), precision, timing)
    try:
        loops.rates(own.step, batch, job.sizes)
    finally:
        own.feed.close()
    whole = sum(timing.seconds.values())
    share = 1.0 - sum(timing.seconds[name] for name in COMPUTING) / whole
    words = ", ".join(f"{part} {seconds / whole:.1%}" for part, seconds in timing.seconds.items())
    return Row("training time outside forward, backward and optimiser", (share,), OUTSIDE_GOAL, False, words)
