"""Part g: training of the autoencoder and of a denoiser on its latents, images a second and memory."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from models.devices import computing, default_device
from models.latent.autoencoder import Autoencoder, freeze_autoencoder
from pipeline.artifacts.cohort import Cohort
from pipeline.distributed.process_group import Ranks
from pipeline.records import CohortRef
from pipeline.train.latent.autoencoder import AutoencoderTrainer
from pipeline.train.machine_plan import MachinePlan
from pipeline.train.settings import TrainSettings
from tests.experiments.benchmarks.gpu import loops
from tests.experiments.benchmarks.gpu.job import NO_TIME, Job
from tests.experiments.benchmarks.rows import Row, Skipped


def run(job: Job) -> Iterator[Row | Skipped]:
    """Time both trainings, and encoding, at every size."""
    with computing(default_device()):
        for size in job.sizes.latent_pixels:
            if not job.has(3 * job.sizes.rounds * job.sizes.step_seconds + 2):
                yield Skipped(f"latent training at {size}x{size}", NO_TIME)
                continue
            yield from _size(job, size)


def _size(job: Job, size: int) -> Iterator[Row | Skipped]:
    sizes = job.sizes
    cohort = loops.noise_cohort(job.scratch / f"latent-{size}", size, max(64, 4 * sizes.latent_batch))

    def autoencoder(batch: int) -> tuple[float, ...]:
        settings = _settings(job, size, batch)
        plan = MachinePlan(default_device(), torch.get_num_threads(), loops.preferred(default_device()))
        own = AutoencoderTrainer(
            Cohort(cohort.path),
            None,
            settings.latent,
            plan,
            Ranks(),
            runtime=settings.runtime,
            seed=0,
            inputs_digest="",
        )
        try:
            return loops.rates(own.step, batch, sizes)
        finally:
            own.feed.close()

    loops.forget_peak()
    batch, found = loops.fitting(autoencoder, sizes.latent_batch)
    yield Row(
        f"autoencoder training, {size}x{size}", found, None, True, _memory(f"batch {batch}"), "images/s"
    )
    yield _encoding(job, size)
    loops.forget_peak()
    batch, found = loops.fitting(lambda own: _latents(job, cohort, size, own), sizes.batch)
    yield Row(
        f"training on latents of {size}x{size}", found, None, True, _memory(f"batch {batch}"), "images/s"
    )


def _settings(job: Job, size: int, batch: int) -> TrainSettings:
    latent = {"enabled": True, "batch_size": batch}
    return loops.recipe_settings(job.sizes, size, latent=latent, augment=0.0)


def _encoding(job: Job, size: int) -> Row:
    spec = _settings(job, size, 1).latent.autoencoder_spec((size, size))
    frozen = freeze_autoencoder(Autoencoder(spec).to(default_device()))
    images = torch.rand(job.sizes.latent_batch, 1, size, size, device=default_device()) * 2 - 1
    found = loops.rates(lambda _step: frozen.moments(images), len(images), job.sizes)
    return Row(f"encoding, {size}x{size}", found, None, True, "fp32, 8 scans at a time", "images/s")


def _latents(job: Job, cohort: CohortRef, size: int, batch: int) -> tuple[float, ...]:
    """Time the steps of a denoiser on made-up latents: the stage would encode all scans first."""
    spec = _settings(job, size, 1).latent.autoencoder_spec((size, size))
    settings = _settings(job, size, 1).model_copy(update={"batch_size": batch})
    own = loops.trainer(cohort, settings, loops.preferred(default_device()))
    images = torch.randn(batch, spec.latent_channels, *spec.latent_size, device=default_device())
    codes = torch.zeros(batch, 1, dtype=torch.int64, device=default_device())
    try:
        return loops.rates(lambda step: own.one_step.run(step, images, codes, 1e-4), batch, job.sizes)
    finally:
        own.feed.close()


def _memory(words: str) -> str:
    allocated, reserved = loops.peak_memory()
    return f"{words}; peak {allocated:.1f} GiB of tensors, {reserved:.1f} GiB reserved"
