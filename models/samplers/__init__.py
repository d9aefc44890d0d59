"""Samplers: plain functions from initial noise to scans, for any denoise function."""

from __future__ import annotations

import pkgutil
from typing import TYPE_CHECKING, Any

from models.samplers.table import SAMPLERS, SamplerEntry

if TYPE_CHECKING:
    from models.noise import Fresh
    from models.samplers.deterministic import sample_ddim, sample_heun
    from models.samplers.interface import Denoise, Sampler, Schedule, at_level
    from models.samplers.multistep import sample_dpmpp_2m, sample_plms
    from models.samplers.schedule import flow_schedule, sigma_schedule
    from models.samplers.stochastic import sample_ddpm, sample_dpmpp_2m_sde

__all__ = [
    "SAMPLERS",
    "Denoise",
    "Fresh",
    "Sampler",
    "SamplerEntry",
    "Schedule",
    "at_level",
    "flow_schedule",
    "sample_ddim",
    "sample_ddpm",
    "sample_dpmpp_2m",
    "sample_dpmpp_2m_sde",
    "sample_heun",
    "sample_plms",
    "sigma_schedule",
]

_MODULES = {
    "models.noise": ("Fresh",),
    "models.samplers.deterministic": ("sample_ddim", "sample_heun"),
    "models.samplers.interface": ("Denoise", "Sampler", "Schedule", "at_level"),
    "models.samplers.multistep": ("sample_dpmpp_2m", "sample_plms"),
    "models.samplers.schedule": ("flow_schedule", "sigma_schedule"),
    "models.samplers.stochastic": ("sample_ddpm", "sample_dpmpp_2m_sde"),
}


def __getattr__(name: str) -> Any:
    # Settings import this package for the names in its table: torch waits until a function is called for.
    for module, names in _MODULES.items():
        if name in names:
            return pkgutil.resolve_name(f"{module}:{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
