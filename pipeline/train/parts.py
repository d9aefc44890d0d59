"""Parts of the training settings, one class per concern."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from models.network.sizes import NetworkSize
from pipeline.artifacts.conditions import CONDITION_NAMES, ConditionName, in_order
from pipeline.config import Settings
from pipeline.cost.time_budget import Decision, planned_steps

# The range of models.optim.ema, which is not imported here: recipes are read without torch.
Length = Annotated[float, Field(ge=0.005, le=0.28)]


class ScheduleSettings(Settings):
    """Number of steps, and the optimiser."""

    num_steps: int = Field(
        1000, ge=1, le=100_000_000, description="optimiser steps; with max_minutes, their upper limit"
    )
    max_minutes: float | None = Field(
        None,
        gt=0,
        le=1_000_000,
        description="training time in minutes, over all resumes; the number of steps is computed when the "
        "speed is known and again when it changes, and the learning rate reaches zero with the last step",
    )
    batch_size: int = Field(64, ge=1, le=65_536, description="scans per step, over all processes together")
    optimizer: Literal["muon", "adamw"] = Field(
        "muon",
        description="muon updates the matrices inside the network, and AdamW the other weights; muon learns "
        "more per step",
    )
    learning_rate: float = Field(3e-3, gt=0, le=1, description="peak learning rate")
    warmup_steps: int = Field(50, ge=0, description="steps over which the learning rate rises from zero")
    learning_rate_decay: Literal["cosine", "none"] = Field(
        "cosine", description="decay of the learning rate after the warm-up: to zero along a cosine, or none"
    )
    weight_decay: float = Field(0.0, ge=0, le=1, description="decoupled weight decay")
    gradient_clip: float = Field(1.0, gt=0, description="norm to which the gradient of a step is clipped")

    def num_steps_of(self, decisions: Sequence[Decision]) -> int:
        """Return the number of steps of a training as decided so far."""
        return planned_steps(self.num_steps, decisions)

    def num_steps_at(self, step: int, decisions: Sequence[Decision]) -> int:
        """Return the total number of steps as known after `step` steps.

        Work at fixed shares of a training, such as snapshots, uses this number, so that it falls on the same
        steps if a training is repeated from its recorded decisions.
        """
        return self.num_steps_of([decision for decision in decisions if decision[0] <= step])

    def learning_rate_at(self, step: int, decisions: Sequence[Decision] = ()) -> float:
        """Return the learning rate of step `step` (counted from 0): linear warm-up, then the chosen decay.

        With a time budget, each decision that changes the number of steps stretches the remaining decay over
        the remaining steps. A budget that all steps fit into changes nothing.
        """
        rate = self.learning_rate
        if step < self.warmup_steps:
            return rate * (step + 1) / self.warmup_steps
        if self.learning_rate_decay == "none":
            return rate
        return rate * 0.5 * (1.0 + math.cos(math.pi * self._decayed(step, decisions)))

    def _decayed(self, step: int, decisions: Sequence[Decision]) -> float:
        """Return the share of the decay that is done at step `step`, in [0, 1]."""
        begin, end, done = self.warmup_steps, self.num_steps, 0.0
        for at, num_steps in decisions:
            if step < at:
                break
            if num_steps == end:
                continue
            if at > begin:
                done += (1.0 - done) * min((at - begin) / max(end - begin, 1), 1.0)
                begin = at
            end = num_steps
        return min(done + (1.0 - done) * (step - begin) / max(end - begin, 1), 1.0)


class ScanSettings(Settings):
    """Sampling of the scans, and their conditions."""

    class_balance: float = Field(
        0.0, ge=0, le=1, description="0 samples classes as often as they occur, 1 samples them equally often"
    )
    balance_by: Literal["class", "findings"] = Field(
        "class",
        description="groups that class_balance balances: the classes, or the findings if a scan may have "
        "several (and the scans without findings)",
    )
    conditions: tuple[ConditionName, ...] = Field(
        (),
        description=f"conditions of the network besides the class: {', '.join(CONDITION_NAMES)} (one "
        "condition each)",
    )
    min_combination_patients: int = Field(
        5,
        ge=1,
        le=1_000_000,
        description="smallest number of patients who must share a combination of conditions for it to be "
        "stored for sampling",
    )

    @field_validator("conditions")
    @classmethod
    def _conditions_in_order(cls, asked: tuple[ConditionName, ...]) -> tuple[ConditionName, ...]:
        return in_order(asked)


class ObjectiveSettings(Settings):
    """Training objective."""

    label_dropout: float = Field(
        0.1, ge=0, le=1, description="share of labels to hide in training, for classifier-free guidance"
    )
    augment: float = Field(
        0.0,
        ge=0,
        le=1,
        description="probability of each geometric augmentation; the network is conditioned on them and "
        "samples without them, which helps if there are few scans",
    )
    sigma_mean: float = Field(
        -1.2,
        ge=-10,
        le=10,
        description="mean of ln(sigma) in training, for images of up to 64 pixels; sigma grows with "
        "the side above",
    )
    sigma_std: float = Field(
        1.2,
        gt=0,
        le=10,
        description="standard deviation of ln(sigma) in training; spectral widens it by a third",
    )
    sigma_data: float = Field(
        0.5,
        gt=0,
        le=10,
        description="assumed standard deviation of the scans in [-1, 1]; latents are scaled to it",
    )
    parametrisation: Literal["auto", "edm", "flow", "spectral"] = Field(
        "auto",
        description="prediction target of the network: EDM's combination of scan and noise, that of each "
        "spatial frequency by itself, or rectified flow's velocity; auto takes that of train.init_from, or "
        "else spectral for images above 64 pixels and edm for smaller ones and for latents",
    )


class AverageSettings(Settings):
    """Averages of the weights, one of which becomes the model."""

    ema_lengths: tuple[Length, ...] = Field(
        (0.05, 0.10),
        min_length=1,
        max_length=8,
        description="lengths of the tracked averages of the weights: standard deviation of the averaging "
        "profile as a share of the training so far",
    )
    ema_length: Length = Field(
        0.10, description="length of the average that becomes the model; any length if there are snapshots"
    )
    ema_snapshots: int = Field(
        16,
        ge=0,
        le=1000,
        description="number of snapshots of the averages during training, from which sampling computes other "
        "lengths and weaker models; 0 for none",
    )
    stop_when_memorising: bool = Field(
        False,
        description="stop when the loss on val scans is clearly above the loss on train scans, and use the "
        "weights from before",
    )

    @model_validator(mode="after")
    def _averages_can_be_made(self) -> AverageSettings:
        if len(set(self.ema_lengths)) != len(self.ema_lengths):
            raise ValueError(f"ema_lengths={self.ema_lengths} must name each length once")
        if self.stop_when_memorising and self.ema_snapshots < 3:
            raise ValueError("stop_when_memorising needs ema_snapshots of at least 3 to go back to")
        if self.ema_length not in self.ema_lengths and not self.ema_snapshots:
            raise ValueError(
                f"ema_length={self.ema_length} must be one of ema_lengths={self.ema_lengths}, or "
                "ema_snapshots be more than 0"
            )
        return self


class LayerSettings(Settings):
    """Layers of the network."""

    network: NetworkSize = Field(
        "small",
        description="size of the network, adapted to the images: small for a CPU, medium for one GPU, large "
        "for several GPUs; the settings below override single layers",
    )
    channels: tuple[int, ...] | None = Field(
        None, min_length=1, description="channels per level, finest first; the other layers are then plain"
    )
    num_res_blocks: int | None = Field(None, ge=1, le=16, description="residual blocks per level")
    attention: tuple[bool, ...] | None = Field(None, description="whether each level has attention")
    num_head_channels: int | None = Field(None, ge=1, description="channels per attention head")
    num_norm_groups: int | None = Field(None, ge=1, description="groups of the group normalisation")
    patch_size: int | None = Field(
        None, ge=1, le=16, description="side of the patches of pixels that form one position of the network"
    )

    @model_validator(mode="after")
    def _network_fits(self) -> LayerSettings:
        """Refuse a network that cannot be built while the recipe is read, not when training starts."""
        from models.network.spec import NetworkSpec

        NetworkSpec(image_size=(64, 64), num_classes=1, **self.layers_for((64, 64)))
        return self

    @property
    def given_layers(self) -> dict[str, Any]:
        """Fields of `NetworkSpec` that are set individually."""
        named = {name: getattr(self, name) for name in LAYER_NAMES}
        return {name: value for name, value in named.items() if value is not None}

    def layers_for(self, image_size: tuple[int, int]) -> dict[str, Any]:
        """Return the layers as fields of `NetworkSpec`, for images (or latents) of a size."""
        from models.network.sizes import network_layers, plain_layers

        layers = plain_layers(self.channels) if self.channels else network_layers(image_size, self.network)
        return {**layers, **self.given_layers}


LAYER_NAMES = tuple(name for name in LayerSettings.model_fields if name != "network")
"""Layers that can be set individually, named as in `NetworkSpec`."""


class RuntimeSettings(Settings):
    """Use of the machine: precision, memory, threads, and intervals of saving."""

    micro_batch: int | None = Field(
        None,
        ge=1,
        le=65_536,
        description="scans in memory at a time per process; their gradients are accumulated to the same "
        "step. None takes as many as fit into the memory that is free at the start",
    )
    checkpoint_activations: bool = Field(
        False, description="recompute activations in the backward pass: less memory, more time"
    )
    precision: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="precision of the network; auto measures at the start and records its choice"
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="torch.compile: auto tries it on a GPU and uses it if it saves time, on uses it wherever "
        "it works",
    )
    num_threads: int | None = Field(
        None, ge=1, le=1024, description="CPU threads per process; None uses the available cores"
    )
    checkpoint_every_seconds: float = Field(
        30.0, gt=0, description="seconds between saved states, the longest work that a kill can lose"
    )
    checkpoint_every_steps: int = Field(
        0, ge=0, description="also save at multiples of this number of steps; 0 disables it"
    )
    grid_every_steps: int = Field(
        500, ge=0, description="draw a grid of samples at multiples of this number of steps; 0 disables it"
    )

    @model_validator(mode="after")
    def _choices_fit(self) -> RuntimeSettings:
        if self.compile == "on" and self.checkpoint_activations:
            raise ValueError("compile=on does not go with checkpoint_activations=true: choose one of them")
        return self

    def save_is_due(self, step: int, seconds: float) -> bool:
        """Return whether to save after `step` steps, `seconds` after the last save."""
        return seconds >= self.checkpoint_every_seconds or _is_multiple(step, self.checkpoint_every_steps)

    def grid_is_due(self, step: int) -> bool:
        """Return whether to draw a grid of samples after `step` steps."""
        return _is_multiple(step, self.grid_every_steps)


def _is_multiple(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
