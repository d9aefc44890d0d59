"""Settings of the sample stage."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config import Settings

DDPM_MIN_STEPS = 400
"""Fewer steps of ancestral sampling narrow a Gaussian of variance 0.02 by over 2 % (200: 3.1 %, 50: 11 %)."""
_Text = Annotated[str, Field(max_length=200)]


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
    guidance_low: float = Field(
        0.0, ge=0, le=10_000, description="guidance acts only at noise levels above this one"
    )
    guidance_high: float | None = Field(
        None, gt=0, le=10_000, description="and up to this one; none sets no upper limit"
    )
    guidance_away_from: str | None = Field(
        None, min_length=1, description="class to guide away from, instead of from no class at all"
    )
    autoguide: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="guide away from a weaker model, taken from the snapshot at this share of the training: "
        "sharper images without loss of variety",
    )
    ema_length: float | None = Field(
        None,
        ge=0.005,
        le=0.28,
        description="length of the weight average, made from the checkpoint's snapshots; none takes the "
        "length that it was trained to be sampled with",
    )
    given: dict[_Text, _Text | Annotated[tuple[_Text, ...], Field(max_length=256)]] = Field(
        default_factory=dict,
        max_length=256,
        description="what every image is asked to show: sex, age_band, view; a finding: present or absent; "
        "findings: the list of those present, all others absent",
    )
    others: Literal["as_trained", "unspecified"] = Field(
        "as_trained",
        description="conditions that are not given: drawn as often as they occur together in training, or "
        "left open",
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

    @field_validator("given")
    @classmethod
    def _given_in_order(cls, given: dict[str, str | tuple[str, ...]]) -> dict[str, str | tuple[str, ...]]:
        """Bring what asks for the same into the same form, which decides whether candidates are reused."""
        return {
            name: value if isinstance(value, str) else tuple(sorted(set(value)))
            for name, value in sorted(given.items())
        }

    @model_validator(mode="after")
    def _sizes_fit(self) -> SampleSettings:
        if self.shard_size < self.batch_size:
            raise ValueError(
                f"shard_size={self.shard_size} must not be smaller than batch_size={self.batch_size}"
            )
        return self

    @model_validator(mode="after")
    def _guidance_is_one_thing(self) -> SampleSettings:
        if self.guidance_high is not None and not self.guidance_low < self.guidance_high:
            raise ValueError(
                f"guidance_low={self.guidance_low} must lie below guidance_high={self.guidance_high}"
            )
        if self.guidance_away_from is not None and self.autoguide is not None:
            raise ValueError(
                f"guidance_away_from={self.guidance_away_from!r} and autoguide={self.autoguide} exclude each "
                "other: leave one out"
            )
        for name in ("guidance_away_from", "autoguide"):
            if getattr(self, name) is not None and self.guidance_scale == 1.0:
                raise ValueError(
                    f"{name} does nothing at guidance_scale=1: set another scale, for instance 2"
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
