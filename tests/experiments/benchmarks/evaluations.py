"""Network evaluations until the KID is within 2 standard errors of 1,000-step sampling (hours on a CPU).

Told in two ways: by the standard error of that KID, which says whether the difference matters for a set of
this size, and by that of the difference itself, which the same noise in both sets makes several times
smaller: what it tells apart may not matter.
"""

from __future__ import annotations

import importlib.util
import math
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.diffusion.denoiser import Denoiser
from models.noise import candidate_seed, initial_noise
from models.optim.allocator import held_memory
from models.samplers import SAMPLERS, Denoise, at_level
from pipeline.artifacts.checkpoint import load_denoiser
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.pixels import StoredPixels, from_model_range
from pipeline.evaluate.fidelity.distances import Z95
from pipeline.sample.settings import SampleSettings
from pipeline.storage import make_private_directory
from pipeline.train import run_train
from tests.experiments.benchmarks.paired_kid import kernel_sums, paired_difference
from tests.experiments.benchmarks.real_cohort import KidMeter, device_recipe, kept_batch, open_or_ingest
from tests.experiments.benchmarks.rows import Row, Skipped

GOAL = 20
STANDARD_ERRORS = 2.0
TRAIN_TIMESTEPS = 1000
PEERS = {
    "MONAI DDIM": ("monai.networks.schedulers", "DDIMScheduler", {}),
    "diffusers DDIM": ("diffusers", "DDIMScheduler", {}),
    "diffusers DPM-Solver++": ("diffusers", "DPMSolverMultistepScheduler", {}),
}
Draw = Callable[[Denoiser, Tensor, Tensor, int], Tensor]
"""(denoiser, unit noise (N, C, H, W), labels (N,), evaluations) -> samples (N, C, H, W)."""


@dataclass(frozen=True)
class Trial:
    """One sampler at one number of evaluations: its KID less the reference's, with the standard error."""

    evaluations: int
    difference: float
    error: float

    def within(self, error: float | None = None) -> bool:
        """Whether the difference is within the standard errors allowed, its own or those given."""
        return abs(self.difference) <= STANDARD_ERRORS * (self.error if error is None else error)

    @property
    def words(self) -> str:
        """The trial in words."""
        return f"{self.evaluations}: {self.difference:+.4f} (se {self.error:.4f})"


def measure(
    samples: int = 5000,
    counts: str = "8,10,12,15,18,20,26",
    samplers: str = "dpmpp_2m,heun,ddim",
    reference: str = "dpmpp_2m",
    reference_steps: int = 1000,
    checkpoint: str = "",
    cohort: str = "",
    batch: int = 250,
    seed: int = 1,
    keep: str = "",
) -> Iterator[Row | Skipped]:
    """Draw the same noise with every sampler and number of evaluations, and compare KIDs pair by pair.

    Args:
        samples: images of each set.
        counts: numbers of network evaluations, rising.
        samplers: ours, of `SAMPLERS`.
        reference: the sampler that stands for the exact result.
        reference_steps: its steps.
        checkpoint: a checkpoint directory; empty trains the device's recipe, which takes minutes.
        cohort: the cohort directory of that checkpoint; empty ingests PneumoniaMNIST or the phantom cohort.
        batch: images at a time.
        seed: run seed.
        keep: a directory for what is drawn, so that a killed call with the same options goes on.
    """
    numbers = sorted(int(word) for word in counts.split(","))
    with tempfile.TemporaryDirectory(prefix="phosphor-bench-") as name, held_memory():
        recipe = device_recipe()
        cohort_ref = open_or_ingest(cohort, Path(name), recipe)
        trained = (
            Path(checkpoint)
            if checkpoint
            else run_train(cohort_ref, Path(name) / "checkpoint", recipe.train, seed=seed).path
        )
        denoiser, info = load_denoiser(trained, cohort_ref.digest)
        meter = KidMeter(Cohort(cohort_ref.path), recipe.evaluate)
        labels = meter.labels(samples)
        if keep:
            make_private_directory(Path(keep))
        stage = _Sets(denoiser, labels, batch, seed, info.bit_depth, Path(keep) if keep else None)

        exact = stage.draw(reference, _own(reference, recipe.sample), reference_steps)
        exact_kid = meter.kid(exact)
        half = ((exact_kid.high or math.nan) - exact_kid.value) / Z95
        exact_sums = kernel_sums(meter.features(exact), meter.val.features)

        def trials(title: str, draw: Draw) -> list[Trial]:
            found = []
            for number in numbers:
                sums = kernel_sums(meter.features(stage.draw(title, draw, number)), meter.val.features)
                found.append(Trial(number, *paired_difference(sums, exact_sums, meter.val.groups)))
            return found

        words = (
            f"KID {exact_kid.value:.4f} (its own standard error {half:.4f}) with {reference} at "
            f"{reference_steps} steps, {samples} images, {info.cohort_name}"
        )
        ours = {sampler: trials(sampler, _own(sampler, recipe.sample)) for sampler in samplers.split(",")}
        best = min(ours, key=lambda sampler: fewest(ours[sampler], half))
        title = f"network evaluations to the KID of {reference_steps:,} steps, within 2 standard errors"
        yield _row(f"{title} of it: {best}", ours[best], words, GOAL, half)
        yield _row(f"{title} of the paired difference: {best}", ours[best], words, GOAL)
        for sampler, found in ours.items():
            if sampler != best:
                yield _row(f"{title} of it: {sampler}", found, words, None, half)
        for peer, (module, cls, options) in PEERS.items():
            if importlib.util.find_spec(module.split(".")[0]) is None:
                yield Skipped(f"{title} of it: {peer}", f"{module} is not installed")
                continue
            scheduler = getattr(importlib.import_module(module), cls)
            found = trials(peer, _peer(lambda make=scheduler, more=options: make(TRAIN_TIMESTEPS, **more)))
            yield _row(f"{title} of it: {peer} on our network", found, words, None, half)


def fewest(trials: list[Trial], error: float | None = None) -> float:
    """Return the smallest number of evaluations from which on every trial is within; infinity if none is.

    `error` is as of `Trial.within`.
    """
    found = math.inf
    for trial in reversed(trials):
        if not trial.within(error):
            break
        found = trial.evaluations
    return found


def _row(name: str, trials: list[Trial], words: str, goal: float | None, error: float | None = None) -> Row:
    detail = f"KID less the reference's at {'; '.join(trial.words for trial in trials)}; {words}"
    return Row(name, (fewest(trials, error),), goal, False, detail)


@dataclass(frozen=True)
class _Sets:
    """Sets of images from the same noise and labels, stored as candidates are."""

    denoiser: Denoiser
    labels: npt.NDArray[np.int64]
    batch: int
    seed: int
    bit_depth: int
    keep: Path | None = None

    def draw(self, title: str, draw: Draw, evaluations: int) -> StoredPixels:
        """Return stored pixels (n, 1, H, W) of all labels; `title` and `evaluations` name what is kept."""
        device = next(self.denoiser.parameters()).device
        parts = []
        for start in range(0, len(self.labels), self.batch):

            def drawn(start: int = start) -> StoredPixels:
                part = self.labels[start : start + self.batch]
                seeds = [candidate_seed(self.seed, int(own), start + place) for place, own in enumerate(part)]
                noise = initial_noise(seeds, self.denoiser.sample_shape).to(device)
                images = draw(self.denoiser, noise, torch.from_numpy(part).to(device), evaluations)
                return from_model_range(np.nan_to_num(images.float().cpu().numpy()), self.bit_depth)

            name = f"{title.replace(' ', '-')}-{evaluations}-{start:06d}.npy"
            parts.append(kept_batch(self.keep / name if self.keep is not None else None, drawn))
        pixels: StoredPixels = np.concatenate(parts)
        return pixels


def _own(sampler: str, settings: SampleSettings) -> Draw:
    """Return one of our samplers with the most steps that so many evaluations pay for."""
    entry = SAMPLERS[sampler]
    if entry.stochastic:
        raise ValueError(f"{sampler} draws noise at every step, so that no two sets would share all of it")

    def draw(denoiser: Denoiser, noise: Tensor, labels: Tensor, evaluations: int) -> Tensor:
        steps = max(n for n in range(1, evaluations + 1) if entry.num_passes(n) <= evaluations)
        sigmas = entry.schedule(
            steps,
            sigma_min=settings.sigma_min,
            sigma_max=settings.sigma_max * denoiser.spec.noise_scale,
            rho=settings.rho,
        )
        return entry.sample(_conditional(denoiser, labels), noise, sigmas)

    return draw


def _peer(make: Callable[[], object]) -> Draw:
    """Return a library's scheduler over our network turned into a noise predictor.

    Its process is x_t = sqrt(a) (x_0 + sigma noise) with sigma^2 = (1 - a) / a, so that our estimate D of x_0
    at that sigma gives the noise (x_t / sqrt(a) - D) / sigma.
    """

    @torch.no_grad()
    def draw(denoiser: Denoiser, noise: Tensor, labels: Tensor, evaluations: int) -> Tensor:
        scheduler: object = make()
        scheduler.set_timesteps(evaluations)  # type: ignore[attr-defined]
        denoise, x = _conditional(denoiser, labels), noise
        for t in scheduler.timesteps:  # type: ignore[attr-defined]
            a = float(scheduler.alphas_cumprod[int(t)])  # type: ignore[attr-defined]
            sigma = math.sqrt((1.0 - a) / a)
            scaled = x / math.sqrt(a)
            denoised = denoise(scaled, sigma)
            done = scheduler.step((scaled - denoised) / sigma, _step_of(t, scheduler), x)  # type: ignore[attr-defined]
            # diffusers names the next sample, MONAI puts it first.
            x = done.prev_sample if hasattr(done, "prev_sample") else done[0]
        return x

    return draw


def _step_of(t: Tensor, scheduler: object) -> Tensor | int:
    return int(t) if type(scheduler).__module__.startswith("monai") else t


def _conditional(denoiser: Denoiser, labels: Tensor) -> Denoise:
    return lambda x, sigma: denoiser(x, at_level(x, sigma), labels)
