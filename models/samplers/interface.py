"""Interfaces of samplers and schedules, and the checks that they share."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from models.noise import Fresh

Denoise = Callable[[Tensor, float], Tensor]
"""D(x (N, C, H, W), sigma) -> the expected clean data (N, C, H, W); all of x is at one noise level.

The level is a number on the host: reading it from an accelerator would wait for all queued work.
"""


class Sampler(Protocol):
    """A plain function from initial noise to samples."""

    def __call__(self, denoise: Denoise, noise: Tensor, sigmas: Tensor, fresh: Fresh | None = None) -> Tensor:
        """Draw samples.

        Args:
            denoise: the denoise function.
            noise: standard normal noise (N, ...).
            sigmas: decreasing noise levels (num_steps + 1,) ending in 0.
            fresh: the noise that each step adds; required by stochastic samplers, ignored by the others.

        Returns:
            Samples (N, ...), fp32.
        """
        ...


class Schedule(Protocol):
    """The noise levels of a sampler."""

    def __call__(
        self, num_steps: int, sigma_min: float = ..., sigma_max: float = ..., rho: float = ...
    ) -> Tensor:
        """Return decreasing noise levels (num_steps + 1,), fp64, ending in 0."""
        ...


def falling_levels(sigmas: Tensor) -> list[float]:
    """Return noise levels as numbers.

    Raises:
        ValueError: the levels do not decrease strictly, or do not end in 0.
    """
    levels = [float(sigma) for sigma in sigmas]
    falling = all(high > low for high, low in itertools.pairwise(levels))
    if len(levels) < 2 or not falling or levels[-1] != 0.0:
        raise ValueError(f"sigmas must fall strictly and end in 0, got {levels}")
    return levels


def at_level(x: Tensor, sigma: float) -> Tensor:
    """Return the noise levels (N,), fp32, of ``x`` (N, ...) for a denoiser."""
    return torch.full((x.shape[0],), sigma, dtype=torch.float32, device=x.device)
