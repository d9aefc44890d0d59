"""Settings of the sample stage."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator, model_validator

from models.samplers.table import SAMPLERS
from pipeline.config import Settings
from pipeline.scan_attributes import SCAN_ATTRIBUTES

_Text = Annotated[str, Field(max_length=200)]
if TYPE_CHECKING:
    SamplerName = str
else:
    SamplerName = Literal[tuple(SAMPLERS)]
_WORDS = [entry.words for entry in SAMPLERS.values()]


class SampleSettings(Settings):
    """Settings that determine the candidates, together with the checkpoint and the seed."""

    per_class: int = Field(640, ge=1, le=10_000_000, description="requested images per class in the release")
    overdraw: float = Field(
        1.25,
        ge=1,
        le=100,
        description="candidates generated per requested image; the privacy gate rejects some of them",
    )
    sampler: SamplerName = Field(
        "dpmpp_2m", description=f"sampler: {', '.join(_WORDS[:-1])}, or {_WORDS[-1]}"
    )
    num_steps: int | None = Field(
        None, ge=1, le=10_000, description="number of sampler steps; none uses the sampler's recommendation"
    )
    guidance_scale: float = Field(
        1.0,
        ge=0,
        le=50,
        description="scale of the guidance; 1 is the plain class-conditional model, more reduces diversity "
        "and takes twice the time",
    )
    guidance_low: float = Field(
        0.0, ge=0, le=10_000, description="guidance is applied only at noise levels above this one"
    )
    guidance_high: float | None = Field(
        None, gt=0, le=10_000, description="guidance is applied only up to this noise level; none is no limit"
    )
    guidance_away_from: str | None = Field(
        None,
        min_length=1,
        description="class to guide away from; none guides away from the unconditional model",
    )
    autoguide: float | None = Field(
        None,
        gt=0,
        lt=1,
        description="guide away from a weaker model, the snapshot at this share of the training: sharper "
        "images without loss of diversity",
    )
    ema_length: float | None = Field(
        None,
        ge=0.005,
        le=0.28,
        description="length of the weight average, computed from the checkpoint's snapshots; none uses the "
        "length that the checkpoint was trained for",
    )
    given: dict[_Text, _Text | Annotated[tuple[_Text, ...], Field(max_length=256)]] = Field(
        default_factory=dict,
        max_length=256,
        description=f"conditions of every image: {', '.join(SCAN_ATTRIBUTES)}; a finding: present or absent; "
        "findings: list of the findings that are present, all others are absent",
    )
    others: Literal["as_trained", "unspecified"] = Field(
        "as_trained",
        description="conditions that are not given: sampled with their joint frequencies in training, or "
        "left open",
    )
    batch_size: int = Field(64, ge=1, le=65_536, description="candidates per batch")
    shard_size: int = Field(
        1024, ge=1, le=1_000_000, description="candidates per file; an interrupted run keeps finished files"
    )
    sigma_min: float = Field(0.01, gt=0, le=1, description="last noise level above zero")
    sigma_max: float = Field(
        80.0,
        gt=1,
        le=10_000,
        description="first noise level, for images of up to 64 pixels; it grows with the side above",
    )
    rho: float = Field(
        10.0,
        ge=1,
        le=100,
        description="how strongly the steps are concentrated at low noise; flow_euler uses even steps in "
        "time",
    )

    @model_validator(mode="after")
    def _long_enough(self) -> SampleSettings:
        least = SAMPLERS[self.sampler].least_steps
        if self.num_steps is not None and self.num_steps < least:
            raise ValueError(
                f"num_steps={self.num_steps} must be at least {least} with sampler={self.sampler}, which "
                "loses diversity with fewer; dpmpp_2m_sde needs fewer"
            )
        return self

    @field_validator("given")
    @classmethod
    def _given_in_order(cls, given: dict[str, str | tuple[str, ...]]) -> dict[str, str | tuple[str, ...]]:
        """Normalise equivalent requests to one form, which decides whether candidates are reused."""
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
                    f"{name} has no effect with guidance_scale=1: set another scale, for example 2"
                )
        return self

    @property
    def candidates_per_class(self) -> int:
        """Number of candidates per class: `per_class` times `overdraw`, rounded up."""
        # Computed as decimals: 100 x 1.1 is 110, not the 111 of binary rounding.
        return math.ceil(self.per_class * Fraction(str(self.overdraw)))

    @property
    def rows_per_shard(self) -> int:
        """Number of candidates per file: `shard_size` rounded down to whole batches."""
        return self.shard_size // self.batch_size * self.batch_size
