"""Part d: images a second of each sampler, and the whole draw over its network passes."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch
from torch.nn import functional

from models.devices import computing, default_device, synchronise
from models.diffusion.denoiser import Denoiser
from models.network.network import NetworkSpec
from models.optim.precision import apply_precision
from models.samplers import SAMPLERS
from pipeline.sample.draw import draw_candidates, list_candidates
from pipeline.sample.settings import SampleSettings
from tests.experiments.benchmarks.gpu import loops
from tests.experiments.benchmarks.gpu.job import NO_TIME, Job
from tests.experiments.benchmarks.rows import Row, Skipped

GOAL = 1.1


def run(job: Job) -> Iterator[Row | Skipped]:
    """Draw a batch with each sampler at each size; a rate is for the sampler's recommended steps."""
    with computing(default_device()):
        for size in job.sizes.sample_pixels:
            denoiser = _denoiser(job, size)
            pass_seconds = _pass_seconds(job, denoiser)
            for name in SAMPLERS:
                if job.has(3 * pass_seconds * SAMPLERS[name].num_passes(job.sizes.sample_steps) + 1):
                    yield from _sampler(job, denoiser, name, pass_seconds)
                else:
                    yield Skipped(f"sampling, {name}, {size}x{size}", NO_TIME)


def _denoiser(job: Job, size: int) -> Denoiser:
    settings, device = loops.recipe_settings(job.sizes, size), default_device()
    spec = NetworkSpec((size, size), 3, **settings.network_fields((size, size)))
    denoiser = apply_precision(Denoiser(spec).to(device), loops.preferred(device))
    return denoiser.eval().requires_grad_(False)


@torch.no_grad()
def _pass_seconds(job: Job, denoiser: Denoiser) -> float:
    """Return the time of one pass of the bare network on a batch, the fastest round's mean."""
    device, batch = default_device(), job.sizes.sample_batch
    x = functional.pixel_unshuffle(
        torch.randn(batch, *denoiser.sample_shape, device=device), denoiser.spec.patch_size
    )
    x, times = x.to(denoiser.compute_dtype), torch.zeros(batch, device=device)
    condition, best = (denoiser.null_codes(batch, device), None), float("inf")
    for turn in range(job.sizes.rounds + 1):
        synchronise(device)
        started = time.perf_counter()
        for _ in range(job.sizes.sample_steps):
            denoiser.network(x, times, class_labels=condition)
        synchronise(device)
        if turn:
            best = min(best, (time.perf_counter() - started) / job.sizes.sample_steps)
    return best


def _sampler(job: Job, denoiser: Denoiser, name: str, pass_seconds: float) -> Iterator[Row]:
    sizes, entry = job.sizes, SAMPLERS[name]
    settings = SampleSettings(sampler=name, per_class=1, batch_size=sizes.sample_batch)
    # Fewer steps than a sampler is good for are as long each.
    settings = settings.model_copy(update={"num_steps": sizes.sample_steps})
    candidates = list_candidates([0], sizes.sample_batch, 0)
    passes, found = entry.num_passes(sizes.sample_steps), []
    for turn in range(sizes.rounds + 1):
        started = time.perf_counter()
        draw_candidates(denoiser, candidates, settings, bit_depth=8)
        if turn:
            found.append(time.perf_counter() - started)
    size, steps = denoiser.spec.image_size[0], entry.recommended_steps
    rate = tuple(sizes.sample_batch * passes / seconds / entry.num_passes(steps) for seconds in found)
    words = f"{size}x{size}, batch {sizes.sample_batch}, from {sizes.sample_steps} steps, {sizes.network}"
    yield Row(f"sampling, {name}, {steps} steps, {size}x{size}", rate, None, True, words, "images/s")
    over = tuple(seconds / (passes * pass_seconds) for seconds in found)
    yield Row(f"sampling over its network passes, {name}, {size}x{size}", over, GOAL, False, words)
