"""Generates candidates: an image depends on its class, seed and settings, not on the rest of its batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from models.devices import to_device
from models.diffusion.denoiser import Denoiser
from models.diffusion.guidance import Guidance, guided_denoise
from models.latent.autoencoder import Autoencoder
from models.noise import candidate_seed, fresh_noise, initial_noise
from models.samplers import SAMPLERS
from pipeline.artifacts.candidate_shards import require_finite
from pipeline.artifacts.pixels import StoredPixels, from_model_range
from pipeline.sample.settings import SampleSettings


@dataclass(frozen=True)
class Candidate:
    """One candidate to generate.

    Attributes:
        label: index of the class in the checkpoint's classes.
        index: index within the class, from 0.
        seed: seed of this candidate.
        codes: codes of the conditions besides the class; empty if there are none.
    """

    label: int
    index: int
    seed: int
    codes: tuple[int, ...] = ()


def list_candidates(labels: Sequence[int], per_class: int, run_seed: int) -> list[Candidate]:
    """Return the candidates of a run: classes in the order given, `per_class` of each."""
    return [
        Candidate(label, index, candidate_seed(run_seed, label, index))
        for label in labels
        for index in range(per_class)
    ]


def resolved_steps(settings: SampleSettings) -> int:
    """Return the number of sampler steps: the setting, or the sampler's recommendation."""
    return settings.num_steps or SAMPLERS[settings.sampler].recommended_steps


def draw_candidates(
    denoiser: Denoiser,
    candidates: Sequence[Candidate],
    settings: SampleSettings,
    *,
    bit_depth: int,
    guidance: Guidance | None = None,
    autoencoder: Autoencoder | None = None,
) -> StoredPixels:
    """Generate at most one batch of candidates.

    The network always gets a full batch, because kernels are selected by batch size and round differently. A
    short batch is padded with copies of its first candidate, which are then dropped. A candidate is therefore
    the same alone and in a batch with others.

    Args:
        denoiser: the denoiser, on its device.
        candidates: 1 to `settings.batch_size` candidates.
        settings: sample settings.
        bit_depth: bit depth of the stored pixels, 8 or 16.
        guidance: from `make_guidance`; None is classifier-free guidance with the scale of the settings.
        autoencoder: decodes latents to images; None if the denoiser generates images.

    Returns:
        Pixels (N, 1, H, W), uint8 or uint16: [-1, 1] is mapped to the full range, values outside are clipped.

    Raises:
        ValueError: no candidate, or more than a batch of them.
        PhosphorError: the denoiser returned values that are not finite.
    """
    if not 1 <= len(candidates) <= settings.batch_size:
        raise ValueError(f"candidates must number 1 to {settings.batch_size}, got {len(candidates)}")
    filled = [*candidates, *[candidates[0]] * (settings.batch_size - len(candidates))]
    device = next(denoiser.parameters()).device
    codes = to_device(_condition_codes(denoiser, filled), device)
    shape = denoiser.sample_shape
    seeds = [candidate.seed for candidate in filled]
    entry = SAMPLERS[settings.sampler]
    sigmas = entry.schedule(
        resolved_steps(settings),
        sigma_min=settings.sigma_min,
        sigma_max=settings.sigma_max * denoiser.spec.noise_scale,
        rho=settings.rho,
    )
    denoise = guided_denoise(denoiser, codes, guidance or settings.guidance_scale)
    noise = to_device(initial_noise(seeds, shape), device)
    samples = entry.sample(denoise, noise, sigmas, fresh_noise(seeds, shape) if entry.stochastic else None)
    drawn = samples[: len(candidates)]
    images = (drawn if autoencoder is None else autoencoder.to_images(drawn)).cpu().numpy()
    require_finite(images)
    return from_model_range(images, bit_depth)


def _condition_codes(denoiser: Denoiser, candidates: Sequence[Candidate]) -> torch.Tensor:
    """Return the condition codes (N, F) int64, the class first."""
    open_codes = denoiser.spec.conditions
    return torch.tensor([(candidate.label, *(candidate.codes or open_codes)) for candidate in candidates])
