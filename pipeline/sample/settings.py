"""Settings of the sample stage."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

from pydantic import Field, model_validator

from pipeline.config import Settings

DDPM_MIN_STEPS = 400
"""Fewer steps of ancestral sampling narrow a Gaussian of variance 0.02 by over 2 % (200: 3.1 %, 50: 11 %)."""


class SampleSettings(Settings):
    """What decides the candidates besides the checkpoint and the seed."""

    per_class: int = Field(640, ge=1, le=10_000_000, description="images of each class wanted in the release")
    overdraw: float = Field(
        1.25,
        ge=1,
        le=100,
        description="candidates drawn for each image wanted; the privacy gate rejects some",
    )
    sampler: Literal["dpmpp_2m", "dpmpp_2m_sde", "heun", "ddim", "plms", "ddpm", "flow_euler"] = Field(
        "dpmpp_2m",
        description="DPM-Solver++(2M) and its stochastic form, Heun's rule, DDIM, PLMS (PNDM), ancestral DDPM"
        " (at least 400 steps), or Euler's rule on a rectified flow",
    )
    num_steps: int | None = Field(
        None, ge=1, le=10_000, description="sampler steps; none takes the number recommended for the sampler"
    )
    guidance_scale: float = Field(
        1.0,
        ge=0,
        le=50,
        description="1 is the plain class-conditional model; more costs variety and twice the time",
    )
    batch_size: int = Field(64, ge=1, le=65_536, description="candidates made at a time")
    shard_size: int = Field(
        1024, ge=1, le=1_000_000, description="candidates a file; finished files survive a kill"
    )
    sigma_min: float = Field(0.01, gt=0, le=1, description="last noise level above zero")
    sigma_max: float = Field(80.0, gt=1, le=10_000, description="first noise level")
    rho: float = Field(
        10.0,
        ge=1,
        le=100,
        description="how strongly the steps crowd at low noise; flow_euler spaces its own evenly in time",
    )

    @model_validator(mode="after")
    def _ancestral_at_length(self) -> SampleSettings:
        if self.sampler == "ddpm" and self.num_steps is not None and self.num_steps < DDPM_MIN_STEPS:
            raise ValueError(
                f"num_steps={self.num_steps} must be at least {DDPM_MIN_STEPS} with sampler=ddpm, "
                "which loses variety below; dpmpp_2m_sde takes fewer"
            )
        return self

    @model_validator(mode="after")
    def _sizes_fit(self) -> SampleSettings:
        if self.shard_size < self.batch_size:
            raise ValueError(
                f"shard_size={self.shard_size} must not be smaller than batch_size={self.batch_size}"
            )
        return self

    @property
    def candidates_per_class(self) -> int:
        """Candidates drawn of each class: `per_class` times `overdraw`, rounded up."""
        # As decimal numbers: 100 x 1.1 is 110, not the 111 that binary rounding would make of it.
        return math.ceil(self.per_class * Fraction(str(self.overdraw)))

    @property
    def rows_per_shard(self) -> int:
        """Candidates a file: `shard_size` cut to whole batches."""
        return self.shard_size // self.batch_size * self.batch_size
