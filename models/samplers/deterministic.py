"""Single-step samplers of the probability flow: Heun's method and DDIM."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from models.noise import Fresh
from models.samplers.interface import Denoise, falling_levels


@torch.no_grad()
def sample_heun(denoise: Denoise, noise: Tensor, sigmas: Tensor, fresh: Fresh | None = None) -> Tensor:
    """Deterministic second-order sampler (Heun's method; arXiv 2206.00364, algorithm 1).

    It needs 2 num_steps - 1 denoise calls. The deviation of a Gaussian is within 1.6 % at 30 steps and 2.7 %
    at 24.

    Args:
        denoise: the denoise function.
        noise: standard normal noise (N, ...).
        sigmas: decreasing noise levels (num_steps + 1,) ending in 0.
        fresh: not used.

    Returns:
        Samples (N, ...), fp32.
    """
    levels = falling_levels(sigmas)
    x = noise.float() * levels[0]
    for sigma, following in itertools.pairwise(levels):
        slope = (x - denoise(x, sigma)) / sigma
        euler = x + (following - sigma) * slope
        if following > 0.0:
            end_slope = (euler - denoise(euler, following)) / following
            euler = x + (following - sigma) * 0.5 * (slope + end_slope)
        x = euler
    return x


@torch.no_grad()
def sample_ddim(denoise: Denoise, noise: Tensor, sigmas: Tensor, fresh: Fresh | None = None) -> Tensor:
    """DDIM without added noise (Song et al. 2020, arXiv 2010.02502, equation 12 with eta = 0).

    In sigma form it is Euler's method, of first order: it narrows the distribution unless there are many
    steps. The deviation of a Gaussian is within 3.1 % at 100 steps and 1.6 % at 200.

    On the levels of ``flow_schedule`` it is Euler's method on the rectified flow: with x_t = (1 - t) x and
    sigma = t / (1 - t), the flow's x_t + (t' - t) (n - x0) is the same point as lerp(x0, x, sigma' / sigma).
    There the deviation is within 2.1 % at 160 steps and 1.4 % at 250.

    Args:
        denoise: the denoise function, called num_steps times.
        noise: standard normal noise (N, ...).
        sigmas: decreasing noise levels (num_steps + 1,) ending in 0.
        fresh: not used.

    Returns:
        Samples (N, ...), fp32.
    """
    levels = falling_levels(sigmas)
    x = noise.float() * levels[0]
    for sigma, following in itertools.pairwise(levels):
        x = torch.lerp(denoise(x, sigma), x, following / sigma)
    return x
