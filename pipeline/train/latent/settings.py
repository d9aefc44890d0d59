"""Settings of latent diffusion: the autoencoder that is trained before the denoiser."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field, model_validator

from pipeline.config import Settings
from pipeline.errors import DataError
from pipeline.train.parts import ScheduleSettings

if TYPE_CHECKING:
    from models.latent.autoencoder_spec import AutoencoderSpec

MIN_LATENT_SIZE = 4
"""Smallest side of a latent: that of the smallest image of a denoiser."""


class LatentSettings(Settings):
    """Settings of the autoencoder and of the latents that the denoiser is trained on."""

    enabled: bool = Field(
        False,
        description="train an autoencoder first, then the denoiser on its latents; for images of 256 pixels "
        "or more",
    )
    channels: tuple[int, ...] = Field(
        (32, 64),
        min_length=1,
        description="channels per level, finest first; each level after the first halves the sides",
    )
    patch_size: int = Field(
        4,
        ge=1,
        le=16,
        description="side of the patches of pixels that become channels before the first level",
    )
    latent_channels: int = Field(4, ge=1, le=64, description="channels of the latent")
    num_res_blocks: int = Field(1, ge=1, le=16, description="residual blocks per level")
    num_norm_groups: int = Field(16, ge=1, description="groups of the group normalisation")
    num_steps: int = Field(2000, ge=1, le=100_000_000, description="optimiser steps of the autoencoder")
    batch_size: int = Field(8, ge=1, le=65_536, description="scans per step of the autoencoder")
    learning_rate: float = Field(
        2e-3, gt=0, le=1, description="peak learning rate, which decays along a cosine"
    )
    warmup_steps: int = Field(50, ge=0, description="steps over which the learning rate rises from zero")
    gradient_weight: float = Field(
        1.0,
        ge=0,
        le=1000,
        description="weight of the error of the image gradients, for sharp edges",
    )
    kl_weight: float = Field(
        1e-3,
        ge=0,
        le=1000,
        description="weight of the mean KL divergence of a latent value from the standard normal",
    )

    @property
    def schedule(self) -> ScheduleSettings:
        """Number of steps, batch size and learning rate."""
        return ScheduleSettings(
            num_steps=self.num_steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            warmup_steps=self.warmup_steps,
        )

    @model_validator(mode="after")
    def _autoencoder_fits(self) -> LatentSettings:
        """Refuse an invalid autoencoder when the recipe is read, before training starts."""
        self._spec((64, 64))
        return self

    def autoencoder_spec(self, image_size: tuple[int, int]) -> AutoencoderSpec:
        """Return the specification of the autoencoder for scans of a size.

        Raises:
            DataError: the latents would be too small to train a denoiser on.
        """
        spec = self._spec(image_size)
        height, width = spec.latent_size
        if min(height, width) < MIN_LATENT_SIZE:
            raise DataError(
                f"images of {image_size[0]}x{image_size[1]} pixels give latents of only {height}x{width}",
                field="train.latent",
                remedy="Take fewer train.latent.channels or a smaller train.latent.patch_size (now "
                f"{spec.factor} pixels a place), or set train.latent.enabled=false.",
            )
        return spec

    def _spec(self, image_size: tuple[int, int]) -> AutoencoderSpec:
        from models.latent.autoencoder_spec import AutoencoderSpec

        return AutoencoderSpec(
            image_size=image_size,
            channels=self.channels,
            latent_channels=self.latent_channels,
            patch_size=self.patch_size,
            num_res_blocks=self.num_res_blocks,
            num_norm_groups=self.num_norm_groups,
        )
