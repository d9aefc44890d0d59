"""Editing: begin from an image at a noise level, and hold a known region while the rest is made anew."""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor
from torch.nn import functional

from models.devices import to_device
from models.noise import Fresh
from models.samplers import Denoise, sigma_schedule

HARMONISED_SIGMA = (0.03, 0.5)
"""Noise levels whose steps are repeated, for data in [-1, 1]. Above, what is made is forgotten by the end;
below, nothing moves any more. On a correlated Gaussian with a known conditional, repeating above 0.5 too
changed neither its mean nor its deviation."""


def edit_schedule(
    strength: float,
    num_steps: int,
    *,
    sigma_min: float = 0.01,
    sigma_max: float = 80.0,
    rho: float = 10.0,
) -> Tensor:
    """Noise levels of an edit: the part of the full schedule that a strength leaves.

    The first level stands at the share `strength` of the full ramp in sigma^(1/rho), counted from sigma_min,
    so a strength is the same noise level whatever the number of steps; the steps are as dense as in the full
    schedule. At the defaults 0.2 is sigma 0.13, 0.4 is 1.0, 0.6 is 5.3 and 1 is all of it.

    Args:
        strength: in (0, 1].
        num_steps: steps of the full schedule.
        sigma_min, sigma_max, rho: of the full schedule (see `sigma_schedule`).

    Returns:
        Noise levels (ceil(strength num_steps) + 1,), fp64, strictly falling, ending in 0.

    Raises:
        ValueError: an argument is out of its range.
    """
    if not 0.0 < strength <= 1.0:
        raise ValueError(f"strength must lie in (0, 1], got {strength!r}")
    first = sigma_max
    if strength < 1.0:
        low, high = sigma_min ** (1.0 / rho), sigma_max ** (1.0 / rho)
        first = (low + strength * (high - low)) ** rho
    # A hair less, so that 0.07 x 100 steps are 7 and not 8.
    steps = max(1, math.ceil(strength * num_steps - 1e-9))
    return sigma_schedule(steps, sigma_min=sigma_min, sigma_max=first, rho=rho)


def start_noise(source: Tensor, noise: Tensor, sigma: float, *, strength: float, mask: Tensor) -> Tensor:
    """Return what a sampler takes for its noise so that it begins at source + sigma noise.

    Samplers multiply their noise by the first level. SDEdit (Meng et al. 2021, arXiv 2108.01073) in the form
    where noise is added to unscaled data. At strength 1 what is to be made anew begins from noise alone: the
    result is a fresh image and holds nothing of the source.

    Args:
        source: images (N, C, H, W) in [-1, 1].
        noise: unit normal noise (N, C, H, W).
        sigma: first noise level.
        strength: in (0, 1].
        mask: (H, W) in [0, 1], 1 where the image is made anew.
    """
    kept = torch.ones_like(mask) if strength < 1.0 else 1.0 - mask
    return noise + kept * source / sigma


def hold(denoise: Denoise, source: Tensor, mask: Tensor) -> Denoise:
    """Return a denoise function whose result is the source where the mask is 0, and a blend where between.

    Under every sampler the held region is then source + sigma n with unit noise n at each level: the same n
    throughout in a deterministic sampler, a renewed one in a stochastic sampler. Nothing else has to be set.

    Args:
        denoise: the denoise function.
        source: images (N, C, H, W).
        mask: (H, W) in [0, 1], 1 where the image is made anew.
    """

    def held(x: Tensor, sigma: float) -> Tensor:
        return torch.lerp(source, denoise(x, sigma), mask)

    return held


@torch.no_grad()
def sample_repaint(denoise: Denoise, noise: Tensor, sigmas: Tensor, fresh: Fresh, *, repeats: int) -> Tensor:
    """Ancestral sampling that takes each step at low noise several times (RePaint, arXiv 2201.09865).

    A denoiser sees the held region only through the noise of the level. Along one deterministic path what
    is made fits one noisy view of it; going down a step and back up with fresh noise, again and again, shows
    it many, until both regions fit (algorithm 1 of the paper with a jump length of one step).

    Args:
        denoise: a denoise function that holds the known region (see `hold`).
        noise: unit normal noise (N, ...), with the source in it (see `start_noise`).
        sigmas: falling noise levels (num_steps + 1,) ending in 0.
        fresh: noise of step i, (N, ...), i counting every step and every return.
        repeats: how often each step within `HARMONISED_SIGMA` is taken; 1 is plain ancestral sampling.

    Returns:
        Samples (N, ...), fp32. Costs `repaint_passes` denoise calls.
    """
    levels = [float(sigma) for sigma in sigmas]
    x = noise.float() * levels[0]
    drawn = itertools.count()

    def renew(x: Tensor, deviation: float) -> Tensor:
        return x + deviation * to_device(fresh(next(drawn)), x.device)

    for sigma, following in itertools.pairwise(levels):
        for remaining in reversed(range(_times(sigma, following, repeats))):
            denoised = denoise(x, sigma)
            if following == 0.0:
                return denoised
            # The noise of the level below given this one and the clean image (arXiv 2006.11239, equation 7).
            share = (following / sigma) ** 2
            x = renew(torch.lerp(denoised, x, share), following * math.sqrt(1.0 - share))
            if remaining:
                x = renew(x, math.sqrt(sigma**2 - following**2))
    return x


def repaint_passes(sigmas: Tensor, repeats: int) -> int:
    """Return the denoise calls that `sample_repaint` costs."""
    return sum(_times(high, low, repeats) for high, low in itertools.pairwise(sigmas.tolist()))


def _times(sigma: float, following: float, repeats: int) -> int:
    low, high = HARMONISED_SIGMA
    return repeats if following > 0.0 and low <= sigma <= high else 1


def feather(mask: Tensor, pixels: int) -> Tensor:
    """Soften a mask inwards: it falls to 0 over `pixels` pixels before its edge, and grows nowhere.

    The border of the image is no edge.

    Args:
        mask: (H, W) in [0, 1].
        pixels: width of the ramp; 0 leaves the mask as it is.

    Returns:
        The mean of the mask and its erosions by 1 to `pixels` pixels, (H, W).
    """
    eroded = [mask[None, None]]
    for _ in range(pixels):
        eroded.append(-functional.max_pool2d(-eroded[-1], kernel_size=3, stride=1, padding=1))
    return torch.stack(eroded).mean(dim=0)[0, 0]
