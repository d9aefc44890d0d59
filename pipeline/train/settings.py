"""Settings of the train stage."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from pipeline.config import Settings


class TrainSettings(Settings):
    """What decides a training run besides the cohort and the seed."""

    num_steps: int = Field(
        1000, ge=1, le=100_000_000, description="optimiser steps; with max_minutes, at most so many"
    )
    max_minutes: float | None = Field(
        None,
        gt=0,
        le=1_000_000,
        description="training time to spend, over all resumes; the steps that fit are counted once the speed "
        "is known, and the learning rate falls to zero with the last of them",
    )
    batch_size: int = Field(64, ge=1, le=65_536, description="scans a step, over all processes together")
    micro_batch: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="scans in memory at a time on each process; their gradients add up to the same step. "
        "None takes all at once",
    )
    checkpoint_activations: bool = Field(
        False, description="keep less for the backward pass and compute it again: less memory, more time"
    )
    learning_rate: float = Field(1e-3, gt=0, le=1, description="peak learning rate of AdamW")
    warmup_steps: int = Field(50, ge=0, description="steps over which the learning rate rises from zero")
    learning_rate_decay: Literal["cosine", "none"] = Field(
        "cosine", description="how the learning rate falls after the warm-up: to zero along a cosine, or not"
    )
    weight_decay: float = Field(0.0, ge=0, le=1, description="decoupled weight decay of AdamW")
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of one step's gradient")
    label_dropout: float = Field(
        0.1, ge=0, le=1, description="share of labels hidden, which classifier-free guidance needs"
    )
    class_balance: float = Field(
        0.0, ge=0, le=1, description="0 draws scans as they come, 1 draws every class equally often"
    )
    horizontal_flip: bool = Field(
        False,
        description="mirror half of the scans; off, as a mirrored chest has its heart on the wrong side",
    )
    ema_half_life: float = Field(20_000, ge=0, description="half-life of the weight average, in images")
    ema_ramp_share: float = Field(
        0.1, gt=0, le=1, description="the half-life never exceeds this share of the images seen"
    )
    sigma_mean: float = Field(-1.2, ge=-10, le=10, description="mean of ln(sigma) in training")
    sigma_std: float = Field(1.2, gt=0, le=10, description="standard deviation of ln(sigma) in training")
    sigma_data: float = Field(
        0.5, gt=0, le=10, description="assumed standard deviation of the scans in [-1, 1]"
    )
    parametrisation: Literal["edm", "flow"] = Field(
        "edm", description="what the network predicts: EDM's mix, or rectified flow's velocity"
    )
    channels: tuple[int, ...] = Field(
        (32, 64, 64), min_length=1, description="channels a level, finest first"
    )
    num_res_blocks: int = Field(1, ge=1, le=16, description="residual blocks a level")
    attention: tuple[bool, ...] = Field((False, False, True), description="levels with attention")
    num_head_channels: int = Field(32, ge=1, description="channels of an attention head")
    num_norm_groups: int = Field(32, ge=1, description="groups of the group normalisation")
    patch_size: int = Field(
        1, ge=1, le=16, description="side of the squares of pixels that make one position of the network"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="arithmetic of the network; auto measures at the start and records its choice"
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="torch.compile: auto tries it on a GPU and keeps it where it pays, on uses it wherever "
        "it works",
    )
    num_threads: int | None = Field(
        None, ge=1, le=1024, description="CPU threads of each process; none takes what the machine offers"
    )
    checkpoint_every_seconds: float = Field(30.0, gt=0, description="longest work lost to a kill, in seconds")
    checkpoint_every_steps: int = Field(
        0, ge=0, description="also save at multiples of this step; 0 does not"
    )
    grid_every_steps: int = Field(
        500, ge=0, description="draw a sample grid at multiples of this step; 0 does not"
    )

    @model_validator(mode="after")
    def _choices_fit(self) -> TrainSettings:
        if self.compile == "on" and self.checkpoint_activations:
            raise ValueError("compile=on does not go with checkpoint_activations=true: choose one of them")
        return self

    @model_validator(mode="after")
    def _network_fits(self) -> TrainSettings:
        """Refuse a network that cannot be built while the recipe is read, not when training starts."""
        from models.network_spec import NetworkSpec

        NetworkSpec(image_size=(64, 64), num_classes=1, **self.network_fields())
        return self

    def content_settings(self) -> TrainSettings:
        """Return these settings without those that change how much fits in memory, not what is learnt.

        A training that ran out of memory can so be gone on with in smaller parts.
        """
        return self.model_copy(update={"micro_batch": None, "checkpoint_activations": False})

    def network_fields(self) -> dict[str, Any]:
        """Return the fields of `NetworkSpec` that are settings."""
        return {
            "channels": self.channels,
            "num_res_blocks": self.num_res_blocks,
            "attention": self.attention,
            "num_head_channels": self.num_head_channels,
            "num_norm_groups": self.num_norm_groups,
            "patch_size": self.patch_size,
        }
