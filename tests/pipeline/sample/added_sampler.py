"""A sampler of somebody's own, which stands in the table once this module is imported."""

from __future__ import annotations

from torch import Tensor

from models.samplers.interface import Denoise, Fresh, falling_levels
from models.samplers.table import SAMPLERS, SamplerEntry

NAME = "first_guess"


def sample_first_guess(denoise: Denoise, noise: Tensor, sigmas: Tensor, fresh: Fresh | None = None) -> Tensor:
    """Return what the denoiser sees in pure noise, step after step at the same level."""
    first = falling_levels(sigmas)[0]
    found = noise * first
    for _ in range(len(sigmas) - 1):
        found = denoise(found, first)
    return found.float()


SAMPLERS[NAME] = SamplerEntry(
    f"{__name__}:sample_first_guess", "the first guess", recommended_steps=2, least_steps=2
)
