"""Settings of the edit stage."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config import Settings

Box = tuple[float, float, float, float]


class EditSettings(Settings):
    """Settings that determine the edits, together with the checkpoint, the sources and the seed."""

    to_class: str | None = Field(None, description="target class of the edits")
    from_class: str | None = Field(
        None, description="class of the sources; none uses every class except to_class"
    )
    split: str = Field("train", description="split of a cohort whose scans are edited: train, val or test")
    per_class: int = Field(64, ge=1, le=10_000_000, description="largest number of requested edits")
    overdraw: float = Field(
        1.25, ge=1, le=100, description="sources edited per requested edit; the privacy gate rejects some"
    )
    strength: float | None = Field(
        None,
        ge=0.01,
        le=1,
        description="strength of the noise that the edit starts from, in (0, 1]: 1 keeps nothing of the "
        "edited region; none is 1 with a mask and 0.4 without",
    )
    mask: Box | str | None = Field(
        None,
        description="edited region: a box [x0, y0, x1, y1] in fractions of the image, or a PNG or npy file "
        "of the image's size; none is the whole image",
    )
    feather: int = Field(1, ge=0, le=64, description="width of the soft inner edge of the mask, in pixels")
    sampler: Literal["repaint", "dpmpp_2m", "heun", "ddim"] | None = Field(
        None, description="sampler; none is repaint with a mask and dpmpp_2m without"
    )
    repeats: int = Field(
        8, ge=1, le=100, description="repetitions of each repaint step at low noise, so that regions fit"
    )
    num_steps: int | None = Field(
        None, ge=1, le=10_000, description="steps at strength 1; none uses the sampler's recommendation"
    )
    guidance_scale: float = Field(
        1.0, ge=0, le=50, description="scale of the guidance; 1 is the plain class-conditional model"
    )
    batch_size: int = Field(64, ge=1, le=65_536, description="images per batch")
    shard_size: int = Field(
        1024, ge=1, le=1_000_000, description="images per file; an interrupted run keeps finished files"
    )

    @field_validator("split")
    @classmethod
    def _split_may_be_edited(cls, split: str) -> str:
        if split == "holdout":
            raise ValueError(
                "the holdout cannot be edited: it is the privacy gate's control, and edits of it would "
                "look safe"
            )
        if split not in ("train", "val", "test"):
            raise ValueError("split must be train, val or test")
        return split

    @field_validator("mask")
    @classmethod
    def _box_lies_in_the_image(cls, mask: Box | str | None) -> Box | str | None:
        if isinstance(mask, tuple):
            x0, y0, x1, y1 = mask
            if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
                raise ValueError("a box is x0, y0, x1, y1 with 0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1")
        return mask

    @model_validator(mode="after")
    def _fit_together(self) -> EditSettings:
        if self.shard_size < self.batch_size:
            raise ValueError(
                f"shard_size={self.shard_size} must not be smaller than batch_size={self.batch_size}"
            )
        if self.sampler == "repaint" and self.mask is None:
            raise ValueError("sampler=repaint needs a mask: set a mask or another sampler")
        return self

    @property
    def resolved_strength(self) -> float:
        """The strength, or its default."""
        return self.strength if self.strength is not None else 0.4 if self.mask is None else 1.0

    @property
    def resolved_sampler(self) -> str:
        """The sampler, or its default."""
        return self.sampler or ("dpmpp_2m" if self.mask is None else "repaint")

    @property
    def rows_per_shard(self) -> int:
        """Number of edits per file: `shard_size` rounded down to whole batches."""
        return self.shard_size // self.batch_size * self.batch_size

    def num_sources(self, available: int) -> int:
        """Return how many of the available sources are edited: `per_class` times `overdraw`, rounded up."""
        return min(available, math.ceil(self.per_class * Fraction(str(self.overdraw))))

    def num_wanted(self, edited: int) -> int:
        """Return how many edits the audit keeps at most: `per_class`, or fewer if there are too few edits."""
        return min(self.per_class, max(1, math.floor(edited / Fraction(str(self.overdraw)))))
