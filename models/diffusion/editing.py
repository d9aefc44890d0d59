"""Editing: start from a noised image, and keep a known region while the rest is generated anew."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional

from models.devices import to_device
from models.noise import Fresh
from models.samplers import Denoise, sigma_schedule
from models.samplers.schedule import SIGMA_MAX

HARMONISED_SIGMA = (0.03, 0.5)
"""Noise levels whose steps are repeated, for images in [-1, 1] of up to 64 pixels. Changes above this
range are lost by the end, and below it nothing changes any more. On a correlated Gaussian with a known
conditional distribution, repeating steps above 0.5 as well changed neither the mean nor the deviation."""


def edit_schedule(
    strength: float,
    num_steps: int,
    *,
    sigma_min: float = 0.01,
    sigma_max: float = SIGMA_MAX,
    rho: float = 10.0,
) -> Tensor:
    """Return the noise levels of an edit: the last part of the full schedule, by strength.

    The first level is at the share `strength` of the full ramp in sigma^(1/rho), counted from sigma_min. A
    strength is thus the same noise level for any number of steps. The steps are as dense as in the full
    schedule. With the defaults, 0.2 is sigma 0.13, 0.4 is 1.0, 0.6 is 5.3 and 1 is the full schedule.

    Args:
        strength: in (0, 1].
        num_steps: number of steps of the full schedule.
        sigma_min: smallest noise level of the full schedule (see `sigma_schedule`).
        sigma_max: largest noise level of the full schedule.
        rho: spacing of the full schedule.

    Returns:
        Noise levels (ceil(strength num_steps) + 1,), fp64, strictly decreasing, ending in 0.

    Raises:
        ValueError: an argument is out of its range.
    """
    if not 0.0 < strength <= 1.0:
        raise ValueError(f"strength must lie in (0, 1], got {strength!r}")
    first = sigma_max
    if strength < 1.0:
        low, high = sigma_min ** (1.0 / rho), sigma_max ** (1.0 / rho)
        first = (low + strength * (high - low)) ** rho
    # Slightly less, so that 0.07 x 100 steps are 7 and not 8.
    steps = max(1, math.ceil(strength * num_steps - 1e-9))
    return sigma_schedule(steps, sigma_min=sigma_min, sigma_max=first, rho=rho)


def start_noise(source: Tensor, noise: Tensor, sigma: float, *, strength: float, mask: Tensor) -> Tensor:
    """Return the noise input with which a sampler starts at source + sigma noise.

    Samplers multiply their noise by the first level. This is SDEdit (Meng et al. 2021, arXiv 2108.01073) in
    the form in which noise is added to unscaled data. At strength 1 the masked region starts from noise
    alone: the result is a new image and contains nothing of the source.

    Args:
        source: images (N, C, H, W) in [-1, 1].
        noise: standard normal noise (N, C, H, W).
        sigma: first noise level.
        strength: in (0, 1].
        mask: (H, W) in [0, 1], 1 where the image is generated anew.
    """
    kept = torch.ones_like(mask) if strength < 1.0 else 1.0 - mask
    return noise + kept * source / sigma


def hold(denoise: Denoise, source: Tensor, mask: Tensor) -> Denoise:
    """Return a denoise function that blends the source with the result of `denoise` by a mask.

    With every sampler, the kept region is then source + sigma n at each level, with unit noise n: the same n
    at all levels of a deterministic sampler, a new n at each level of a stochastic one.

    Args:
        denoise: the denoise function.
        source: images (N, C, H, W).
        mask: (H, W) in [0, 1], 1 where the image is generated anew.
    """

    def held(x: Tensor, sigma: float) -> Tensor:
        return torch.lerp(source, denoise(x, sigma), mask)

    return held


@torch.no_grad()
def sample_repaint(
    denoise: Denoise, noise: Tensor, sigmas: Tensor, fresh: Fresh, *, repeats: int, noise_scale: float = 1.0
) -> Tensor:
    """Ancestral sampling that repeats each step at low noise (RePaint, arXiv 2201.09865).

    A denoiser sees the kept region only through the noise of the level. Along a single deterministic path,
    the generated region fits one noisy view of the kept region. Going a step down and back up with fresh
    noise several times shows many views, until both regions fit (algorithm 1 of the paper with a jump length
    of one step).

    Args:
        denoise: a denoise function that keeps the known region (see `hold`).
        noise: standard normal noise (N, ...) that includes the source (see `start_noise`).
        sigmas: decreasing noise levels (num_steps + 1,) ending in 0.
        fresh: noise (N, ...) of step i, where i counts every step down and up.
        repeats: repetitions of each step within `HARMONISED_SIGMA`; 1 is plain ancestral sampling.
        noise_scale: factor of these levels by the size of the images (`NetworkSpec.noise_scale`).

    Returns:
        Samples (N, ...), fp32, from `repaint_passes` denoise calls.
    """
    levels = [float(sigma) for sigma in sigmas]
    x = noise.float() * levels[0]
    drawn = itertools.count()

    def renew(x: Tensor, deviation: float) -> Tensor:
        return x + deviation * to_device(fresh(next(drawn)), x.device)

    for sigma, following in itertools.pairwise(levels):
        for remaining in reversed(range(_times(sigma, following, repeats, noise_scale))):
            denoised = denoise(x, sigma)
            if following == 0.0:
                return denoised
            # The posterior of the next level given this level and the clean image (arXiv 2006.11239, equation
            # 7).
            share = (following / sigma) ** 2
            x = renew(torch.lerp(denoised, x, share), following * math.sqrt(1.0 - share))
            if remaining:
                x = renew(x, math.sqrt(sigma**2 - following**2))
    return x


def repaint_passes(sigmas: Tensor, repeats: int, noise_scale: float = 1.0) -> int:
    """Return the number of denoise calls of `sample_repaint`."""
    return sum(_times(high, low, repeats, noise_scale) for high, low in itertools.pairwise(sigmas.tolist()))


def _times(sigma: float, following: float, repeats: int, noise_scale: float) -> int:
    low, high = (level * noise_scale for level in HARMONISED_SIGMA)
    return repeats if following > 0.0 and low <= sigma <= high else 1


def feather(mask: Tensor, pixels: int) -> Tensor:
    """Soften the inner edge of a mask: it decreases to 0 over `pixels` pixels, and does not grow anywhere.

    The border of the image is not an edge.

    Args:
        mask: (H, W) in [0, 1].
        pixels: width of the ramp; 0 leaves the mask unchanged.

    Returns:
        The mean of the mask and its erosions by 1 to `pixels` pixels, (H, W).
    """
    eroded = [mask[None, None]]
    for _ in range(pixels):
        eroded.append(-functional.max_pool2d(-eroded[-1], kernel_size=3, stride=1, padding=1))
    return torch.stack(eroded).mean(dim=0)[0, 0]
