"""Samplers: plain functions from initial noise to scans, over any denoise function."""

from models.noise import Fresh
from models.samplers.deterministic import sample_ddim, sample_heun
from models.samplers.interface import Denoise, Sampler, Schedule, at_level
from models.samplers.multistep import sample_dpmpp_2m, sample_plms
from models.samplers.schedule import flow_schedule, sigma_schedule
from models.samplers.stochastic import sample_ddpm, sample_dpmpp_2m_sde
from models.samplers.table import SAMPLERS, SamplerEntry

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
