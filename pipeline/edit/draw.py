"""Edits a batch: an image depends on its source, seed and settings, not on the rest of the batch."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from models.devices import to_device
from models.diffusion.denoiser import Denoiser
from models.diffusion.editing import edit_schedule, hold, repaint_passes, sample_repaint, start_noise
from models.diffusion.guidance import guided_denoise
from models.noise import fresh_noise, initial_noise
from models.samplers import SAMPLERS
from models.samplers.schedule import SIGMA_MAX
from pipeline.artifacts.candidate_shards import require_finite
from pipeline.artifacts.pixels import StoredPixels, from_model_range, to_model_range
from pipeline.edit.masks import Mask
from pipeline.edit.settings import EditSettings

REPAINT_STEPS = 26
"""Steps of a full repaint: with this number the deterministic default is within 2 % of a known Gaussian."""


def schedule_of(settings: EditSettings, noise_scale: float) -> Tensor:
    """Return the noise levels of an edit, (num_steps + 1,), ending in 0.

    Args:
        settings: edit settings.
        noise_scale: the network's `NetworkSpec.noise_scale`.
    """
    sampler = settings.resolved_sampler
    steps = settings.num_steps or (
        REPAINT_STEPS if sampler == "repaint" else SAMPLERS[sampler].recommended_steps
    )
    return edit_schedule(settings.resolved_strength, steps, sigma_max=SIGMA_MAX * noise_scale)


def num_denoise_calls(settings: EditSettings, noise_scale: float) -> int:
    """Return the number of denoise calls per batch, without the factor of two for guidance."""
    sigmas = schedule_of(settings, noise_scale)
    if settings.resolved_sampler == "repaint":
        return repaint_passes(sigmas, settings.repeats, noise_scale)
    return SAMPLERS[settings.resolved_sampler].num_passes(len(sigmas) - 1)


def edit_batch(
    denoiser: Denoiser,
    sources: StoredPixels,
    seeds: Sequence[int],
    settings: EditSettings,
    *,
    mask: Mask,
    label: int,
) -> StoredPixels:
    """Edit at most one batch of images.

    Short batches are padded with copies of their first image, as in the sample stage, because kernels are
    selected by batch size and round differently.

    Args:
        denoiser: the denoiser, on its device.
        sources: stored pixels (N, 1, H, W) of 1 to `settings.batch_size` images.
        seeds: one seed per image.
        settings: edit settings.
        mask: (H, W) in [0, 1], 1 where the image is generated anew.
        label: target class of the edits.

    Returns:
        Stored pixels (N, 1, H, W) with the bit depth of the sources, equal to the sources where the mask is
        0.

    Raises:
        ValueError: no image, more than a batch of them, or another number of seeds.
        PhosphorError: the denoiser returned values that are not finite.
    """
    count = len(sources)
    if not 1 <= count <= settings.batch_size or len(seeds) != count:
        raise ValueError(
            f"sources must number 1 to {settings.batch_size} and have one seed each, got {count} and "
            f"{len(seeds)} seeds"
        )
    missing = settings.batch_size - count
    filled_seeds = [*seeds, *[seeds[0]] * missing]
    filled = np.concatenate([sources, sources[:1].repeat(missing, axis=0)])
    device = next(denoiser.parameters()).device
    source = to_device(torch.from_numpy(to_model_range(filled)), device)
    remade = to_device(torch.from_numpy(mask), device)
    images = _edit(denoiser, source, filled_seeds, settings, mask=remade, label=label)
    edited = images[:count].cpu().numpy()
    require_finite(edited)
    stored = from_model_range(edited, sources.dtype.itemsize * 8)
    # Samplers subtract and add noise, which rounds: kept pixels are restored exactly.
    kept: StoredPixels = np.where(mask == 0.0, sources, stored)
    return kept


def _edit(
    denoiser: Denoiser,
    source: Tensor,
    seeds: Sequence[int],
    settings: EditSettings,
    *,
    mask: Tensor,
    label: int,
) -> Tensor:
    noise_scale = denoiser.spec.noise_scale
    sigmas = schedule_of(settings, noise_scale)
    shape = tuple(source.shape[1:])
    labels = torch.full((len(source),), label, device=source.device)
    denoise = guided_denoise(denoiser, labels, settings.guidance_scale)
    noise = to_device(initial_noise(seeds, shape), source.device)
    noise = start_noise(source, noise, float(sigmas[0]), strength=settings.resolved_strength, mask=mask)
    if bool((mask < 1.0).any()):
        denoise = hold(denoise, source, mask)
    if settings.resolved_sampler == "repaint":
        fresh = fresh_noise(seeds, shape)
        return sample_repaint(
            denoise, noise, sigmas, fresh, repeats=settings.repeats, noise_scale=noise_scale
        )
    return SAMPLERS[settings.resolved_sampler].sample(denoise, noise, sigmas)
