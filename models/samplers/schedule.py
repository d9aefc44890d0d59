"""Schedules: the noise levels of a sampler's steps."""

from __future__ import annotations

import torch
from torch import Tensor

SIGMA_MAX = 80.0
"""First noise level for images of up to 64 pixels; larger ones need more (`NetworkSpec.noise_scale`)."""


def sigma_schedule(
    num_steps: int, sigma_min: float = 0.01, sigma_max: float = SIGMA_MAX, rho: float = 10.0
) -> Tensor:
    """Return decreasing noise levels, evenly spaced in sigma^(1/rho), then zero (arXiv 2206.00364, equation
    5).

    ``sigma_max`` is large because the brightness of a whole scan is one direction of large variance.
    ``sigma_min`` is about one grey level of 8 bits, and ``rho`` is above the paper's 7. Both were chosen on a
    Gaussian with a known score, where they nearly halve the number of steps needed for 2 % accuracy.

    Args:
        num_steps: number of sampler steps, at least 1.
        sigma_min: last noise level above zero.
        sigma_max: first noise level.
        rho: how strongly the steps are concentrated at low noise; 1 is even spacing.

    Returns:
        Noise levels (num_steps + 1,), fp64, strictly decreasing, ending in 0.

    Raises:
        ValueError: an argument is out of its range.
    """
    _check(num_steps, sigma_min, sigma_max, rho)
    ramp = torch.linspace(0.0, 1.0, num_steps, dtype=torch.float64)
    high, low = sigma_max ** (1.0 / rho), sigma_min ** (1.0 / rho)
    return torch.cat([(high + ramp * (low - high)) ** rho, torch.zeros(1, dtype=torch.float64)])


def flow_schedule(
    num_steps: int, sigma_min: float = 0.01, sigma_max: float = SIGMA_MAX, rho: float = 10.0
) -> Tensor:
    """Return noise levels whose times on a rectified flow are evenly spaced, then zero (arXiv 2209.03003).

    The flow x_t = (1 - t) x0 + t n is (1 - t) times x0 + sigma n with sigma = t / (1 - t).

    Args:
        num_steps: number of sampler steps, at least 1.
        sigma_min: last noise level above zero.
        sigma_max: first noise level.
        rho: not used: the spacing is even in t.

    Returns:
        Noise levels (num_steps + 1,), fp64, strictly decreasing, ending in 0.

    Raises:
        ValueError: an argument is out of its range.
    """
    _check(num_steps, sigma_min, sigma_max, rho)
    ramp = torch.linspace(0.0, 1.0, num_steps, dtype=torch.float64)
    first, last = sigma_max / (1.0 + sigma_max), sigma_min / (1.0 + sigma_min)
    times = first + ramp * (last - first)
    return torch.cat([times / (1.0 - times), torch.zeros(1, dtype=torch.float64)])


def _check(num_steps: int, sigma_min: float, sigma_max: float, rho: float) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps must be at least 1, got {num_steps}")
    if not 0.0 < sigma_min < sigma_max < float("inf"):
        raise ValueError(
            f"sigma_min={sigma_min} and sigma_max={sigma_max} must satisfy 0 < sigma_min < sigma_max"
        )
    if not rho > 0.0:
        raise ValueError(f"rho must be positive, got {rho!r}")
