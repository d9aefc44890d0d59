"""Samplers that add fresh noise at every step: ancestral DDPM and SDE-DPM-Solver++(2M)."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from models.devices import to_device
from models.noise import Fresh
from models.samplers.interface import Denoise, falling_levels
from models.samplers.multistep import log_times, to_the_middle


@torch.no_grad()
def sample_ddpm(denoise: Denoise, noise: Tensor, sigmas: Tensor, fresh: Fresh | None = None) -> Tensor:
    """Ancestral sampling (DDPM; Ho et al. 2020, arXiv 2006.11239, equations 6, 7 and 11), in sigma form.

    Every step draws from q(x' | x, x0) of the two levels, with the denoised result in place of x0. It is of
    first order and slow: a Gaussian of variance 0.02 becomes 11 % narrower at 50 steps, 5.8 % at 100, 3.1 %
    at 200, 1.7 % at 400 and 0.8 % at 1000. With the paper's own levels (linear betas) it is 2.5 % at 1000.

    Args:
        denoise: the denoise function, called num_steps times.
        noise: standard normal noise (N, ...).
        sigmas: decreasing noise levels (num_steps + 1,) ending in 0.
        fresh: the noise that each step except the last adds.

    Returns:
        Samples (N, ...), fp32.

    Raises:
        ValueError: ``fresh`` is missing.
    """
    draw = _required(fresh)
    levels = falling_levels(sigmas)
    x = noise.float() * levels[0]
    for step, (sigma, following) in enumerate(itertools.pairwise(levels)):
        denoised = denoise(x, sigma)
        if following <= 0.0:
            return denoised
        x = _renoised(x, denoised, sigma, following, draw(step))
    return x


@torch.no_grad()
def sample_dpmpp_2m_sde(
    denoise: Denoise, noise: Tensor, sigmas: Tensor, fresh: Fresh | None = None
) -> Tensor:
    """SDE-DPM-Solver++(2M) (Lu et al. 2022, arXiv 2211.01095, section 5), in sigma form.

    The ancestral step towards the denoised result extrapolated to the middle of the step. The first and the
    last step are of first order. The deviation of a Gaussian is within 1.8 % from 40 steps on and 1.1 % at
    50.

    Args:
        denoise: the denoise function, called num_steps times.
        noise: standard normal noise (N, ...).
        sigmas: decreasing noise levels (num_steps + 1,) ending in 0.
        fresh: the noise that each step except the last adds.

    Returns:
        Samples (N, ...), fp32.

    Raises:
        ValueError: ``fresh`` is missing.
    """
    draw = _required(fresh)
    levels = falling_levels(sigmas)
    times = log_times(levels)
    x = noise.float() * levels[0]
    previous: Tensor | None = None
    for step, (sigma, following) in enumerate(itertools.pairwise(levels)):
        denoised = denoise(x, sigma)
        if following <= 0.0:
            return denoised
        target = to_the_middle(denoised, previous, times, step)
        x = _renoised(x, target, sigma, following, draw(step))
        previous = denoised
    return x


def _renoised(x: Tensor, target: Tensor, sigma: float, following: float, fresh: Tensor) -> Tensor:
    """Draw from the Gaussian of x at level ``following``, given x at ``sigma`` and the clean ``target``."""
    kept = (following / sigma) ** 2
    return torch.lerp(target, x, kept) + following * (1.0 - kept) ** 0.5 * to_device(fresh, x.device)


def _required(fresh: Fresh | None) -> Fresh:
    if fresh is None:
        raise ValueError("fresh: this sampler adds noise at every step and needs a noise function")
    return fresh
