"""Samplers: plain functions from initial noise to scans, over any denoise function."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
"""D(x (N, 1, H, W), sigma (N,)) -> the expected clean data (N, 1, H, W)."""

Sampler = Callable[[Denoise, Tensor, Tensor], Tensor]
"""(denoise, noise (N, ...) of unit variance, sigmas (num_steps + 1,)) -> samples (N, ...)."""


def sigma_schedule(
    num_steps: int, *, sigma_min: float = 0.01, sigma_max: float = 80.0, rho: float = 10.0
) -> Tensor:
    """Falling noise levels, evenly spaced in sigma^(1/rho), then zero (arXiv 2206.00364, equation 5).

    ``sigma_max`` is large because the brightness of a whole scan is one direction of large variance.
    ``sigma_min`` is about one grey level of 8 bits, and ``rho`` above the paper's 7: both were chosen on a
    Gaussian with a known score, where they nearly halve the steps that 2 % accuracy takes.

    Args:
        num_steps: number of sampler steps, at least 1.
        sigma_min: last noise level above zero.
        sigma_max: first noise level.
        rho: how strongly the steps crowd at low noise; 1 is even spacing.

    Returns:
        Noise levels (num_steps + 1,), fp64, strictly falling, ending in 0.

    Raises:
        ValueError: an argument is out of its range.
    """
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    if not 0.0 < sigma_min < sigma_max < float("inf"):
        raise ValueError(
            f"sigma_min={sigma_min} and sigma_max={sigma_max} must satisfy 0 < sigma_min < sigma_max"
        )
    if not rho > 0.0:
        raise ValueError(f"rho must be positive, got {rho!r}")
    ramp = torch.linspace(0.0, 1.0, num_steps, dtype=torch.float64)
    high, low = sigma_max ** (1.0 / rho), sigma_min ** (1.0 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)])


@torch.no_grad()
def sample_heun(denoise: Denoise, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Deterministic second-order sampler (Heun's rule; arXiv 2206.00364, algorithm 1).

    Costs 2 num_steps - 1 denoise calls.

    Args:
        denoise: the denoise function.
        noise: unit normal noise (N, ...).
        sigmas: falling noise levels (num_steps + 1,) ending in 0.

    Returns:
        Samples (N, ...), fp32.
    """
    levels = _levels(sigmas)
    x = noise.float() * levels[0]
    for sigma, following in itertools.pairwise(levels):
        slope = (x - denoise(x, _full(x, sigma))) / sigma
        euler = x + (following - sigma) * slope
        if following > 0.0:
            end_slope = (euler - denoise(euler, _full(x, following))) / following
            euler = x + (following - sigma) * 0.5 * (slope + end_slope)
        x = euler
    return x


@torch.no_grad()
def sample_dpmpp_2m(denoise: Denoise, noise: Tensor, sigmas: Tensor) -> Tensor:
    """Deterministic DPM-Solver++(2M): second order from one call a step and the previous result.

    Lu et al. 2022 (arXiv 2211.01095, algorithm 2), in sigma form: time is -ln(sigma), the data are unscaled.
    The first and the last step are of first order.

    Args:
        denoise: the denoise function, called num_steps times.
        noise: unit normal noise (N, ...).
        sigmas: falling noise levels (num_steps + 1,) ending in 0.

    Returns:
        Samples (N, ...), fp32.
    """
    levels = _levels(sigmas)
    times = [-float(torch.tensor(sigma, dtype=torch.float64).log()) for sigma in levels[:-1]]
    x = noise.float() * levels[0]
    previous: Tensor | None = None
    for step, (sigma, following) in enumerate(itertools.pairwise(levels)):
        denoised = denoise(x, _full(x, sigma))
        if following <= 0.0:
            return denoised
        target = denoised
        if previous is not None:
            # Extrapolate the denoised result to the middle of this step along the last two.
            ratio = (times[step] - times[step - 1]) / (times[step + 1] - times[step])
            target = denoised + (denoised - previous) / (2.0 * ratio)
        x = torch.lerp(target, x, following / sigma)
        previous = denoised
    return x


@torch.no_grad()
def sample_ddim(denoise: Denoise, noise: Tensor, sigmas: Tensor) -> Tensor:
    """DDIM without added noise (Song et al. 2020, arXiv 2010.02502, equation 12 with eta = 0).

    In sigma form it is Euler's rule, of first order: it narrows the distribution unless given many steps.

    Args:
        denoise: the denoise function, called num_steps times.
        noise: unit normal noise (N, ...).
        sigmas: falling noise levels (num_steps + 1,) ending in 0.

    Returns:
        Samples (N, ...), fp32.
    """
    levels = _levels(sigmas)
    x = noise.float() * levels[0]
    for sigma, following in itertools.pairwise(levels):
        x = torch.lerp(denoise(x, _full(x, sigma)), x, following / sigma)
    return x


@dataclass(frozen=True)
class SamplerEntry:
    """A sampler and the steps at which it is within 2 % of a known Gaussian's mean and deviation."""

    sample: Sampler
    recommended_steps: int

    def num_passes(self, num_steps: int) -> int:
        """Denoise calls that ``num_steps`` steps cost."""
        return 2 * num_steps - 1 if self.sample is sample_heun else num_steps


SAMPLERS: dict[str, SamplerEntry] = {
    "dpmpp_2m": SamplerEntry(sample_dpmpp_2m, recommended_steps=26),
    "heun": SamplerEntry(sample_heun, recommended_steps=28),
    "ddim": SamplerEntry(sample_ddim, recommended_steps=160),
}


def _levels(sigmas: Tensor) -> list[float]:
    levels = [float(sigma) for sigma in sigmas]
    falling = all(high > low for high, low in itertools.pairwise(levels))
    if len(levels) < 2 or not falling or levels[-1] != 0.0:
        raise ValueError(f"sigmas must fall strictly and end in 0, got {levels}")
    return levels


def _full(x: Tensor, sigma: float) -> Tensor:
    return torch.full((x.shape[0],), sigma, dtype=torch.float32, device=x.device)
