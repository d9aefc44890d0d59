"""Parts of the training settings, one record a concern: each file of the stage is handed what it needs."""

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
    """How many steps there are, and how each of them changes the weights."""

    num_steps: int = Field(
        1000, ge=1, le=100_000_000, description="optimiser steps; with max_minutes, at most so many"
    )
    max_minutes: float | None = Field(
        None,
        gt=0,
        le=1_000_000,
        description="training time to spend, over all resumes; the steps that fit are counted once the speed "
        "is known and again as it changes, and the learning rate falls to zero with the last of them",
    )
    batch_size: int = Field(64, ge=1, le=65_536, description="scans a step, over all processes together")
    optimizer: Literal["muon", "adamw"] = Field(
        "muon",
        description="muon takes the matrices inside the network and leaves the rest to AdamW; it learns more "
        "from each step",
    )
    learning_rate: float = Field(3e-3, gt=0, le=1, description="peak learning rate")
    warmup_steps: int = Field(50, ge=0, description="steps over which the learning rate rises from zero")
    learning_rate_decay: Literal["cosine", "none"] = Field(
        "cosine", description="how the learning rate falls after the warm-up: to zero along a cosine, or not"
    )
    weight_decay: float = Field(0.0, ge=0, le=1, description="decoupled weight decay")
    gradient_clip: float = Field(1.0, gt=0, description="largest norm of one step's gradient")

    def num_steps_of(self, decisions: Sequence[Decision]) -> int:
        """Return the steps of a training as decided so far."""
        return planned_steps(self.num_steps, decisions)

    def num_steps_at(self, step: int, decisions: Sequence[Decision]) -> int:
        """Return the steps of the whole training as they were known after `step` steps.

        What is done at shares of a training, such as snapshots, asks this: it then falls on the same steps
        in a training that is made again from its recorded decisions.
        """
        return self.num_steps_of([decision for decision in decisions if decision[0] <= step])

    def learning_rate_at(self, step: int, decisions: Sequence[Decision] = ()) -> float:
        """Return the learning rate of step `step` (counted from 0): linear warm-up, then the chosen decay.

        Under a time budget each decision that changes the number of steps stretches what is left of the
        decay over the steps that are left. A budget that all steps fit into changes nothing.
        """
        rate = self.learning_rate
        if step < self.warmup_steps:
            return rate * (step + 1) / self.warmup_steps
        if self.learning_rate_decay == "none":
            return rate
        return rate * 0.5 * (1.0 + math.cos(math.pi * self._decayed(step, decisions)))

    def _decayed(self, step: int, decisions: Sequence[Decision]) -> float:
        """Return how much of the decay lies behind step `step`, in [0, 1]."""
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
    """Which scans a step sees, and what is known of each."""

    class_balance: float = Field(
        0.0, ge=0, le=1, description="0 draws scans as they come, 1 draws every class equally often"
    )
    balance_by: Literal["class", "findings"] = Field(
        "class",
        description="what class_balance draws evenly: the classes, or the findings of a set with several a "
        "scan (and the scans without any)",
    )
    conditions: tuple[ConditionName, ...] = Field(
        (),
        description=f"what the network learns beside the class: {', '.join(CONDITION_NAMES)} (one condition "
        "each)",
    )
    min_combination_patients: int = Field(
        5,
        ge=1,
        le=1_000_000,
        description="combinations of conditions that fewer patients share are not kept for sampling",
    )

    @field_validator("conditions")
    @classmethod
    def _conditions_in_order(cls, asked: tuple[ConditionName, ...]) -> tuple[ConditionName, ...]:
        return in_order(asked)


class ObjectiveSettings(Settings):
    """What the network is asked to predict, and from what."""

    label_dropout: float = Field(
        0.1, ge=0, le=1, description="share of labels hidden, which classifier-free guidance needs"
    )
    augment: float = Field(
        0.0,
        ge=0,
        le=1,
        description="probability of each geometric augmentation; the network is told of them and samples "
        "without, which helps where scans are scarce",
    )
    sigma_mean: float = Field(-1.2, ge=-10, le=10, description="mean of ln(sigma) in training")
    sigma_std: float = Field(1.2, gt=0, le=10, description="standard deviation of ln(sigma) in training")
    sigma_data: float = Field(
        0.5,
        gt=0,
        le=10,
        description="assumed standard deviation of the scans in [-1, 1]; latents are scaled to it",
    )
    parametrisation: Literal["edm", "flow"] = Field(
        "edm", description="what the network predicts: EDM's mix, or rectified flow's velocity"
    )


class AverageSettings(Settings):
    """The averages of the weights along the training, one of which becomes the model."""

    ema_lengths: tuple[Length, ...] = Field(
        (0.05, 0.10),
        min_length=1,
        max_length=8,
        description="lengths of the weight averages that are tracked: standard deviation of their memory as "
        "a share of the training so far",
    )
    ema_length: Length = Field(
        0.10, description="length of the average that samples; any, if there are snapshots to make it from"
    )
    ema_snapshots: int = Field(
        16,
        ge=0,
        le=1000,
        description="snapshots of the averages along the training, from which other lengths and weaker "
        "models are made at sampling; 0 keeps none",
    )
    stop_when_memorising: bool = Field(
        False,
        description="stop when the loss on val scans rises clearly above the loss on train scans, and keep "
        "the weights from before",
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
    """The layers of the network."""

    network: NetworkSize = Field(
        "small",
        description="layers of the network, sized to the images: small for a CPU, medium for one GPU, large "
        "for several; the settings below change single ones",
    )
    channels: tuple[int, ...] | None = Field(
        None, min_length=1, description="channels a level, finest first; the other layers are then plain ones"
    )
    num_res_blocks: int | None = Field(None, ge=1, le=16, description="residual blocks a level")
    attention: tuple[bool, ...] | None = Field(None, description="levels with attention")
    num_head_channels: int | None = Field(None, ge=1, description="channels of an attention head")
    num_norm_groups: int | None = Field(None, ge=1, description="groups of the group normalisation")
    patch_size: int | None = Field(
        None, ge=1, le=16, description="side of the squares of pixels that make one position of the network"
    )

    @model_validator(mode="after")
    def _network_fits(self) -> LayerSettings:
        """Refuse a network that cannot be built while the recipe is read, not when training starts."""
        from models.network.spec import NetworkSpec

        NetworkSpec(image_size=(64, 64), num_classes=1, **self.layers_for((64, 64)))
        return self

    @property
    def given_layers(self) -> dict[str, Any]:
        """Those fields of `NetworkSpec` that are set one by one."""
        named = {name: getattr(self, name) for name in LAYER_NAMES}
        return {name: value for name, value in named.items() if value is not None}

    def layers_for(self, image_size: tuple[int, int]) -> dict[str, Any]:
        """Return the layers as fields of `NetworkSpec`, for images (or latents) of a size."""
        from models.network.sizes import network_layers, plain_layers

        layers = plain_layers(self.channels) if self.channels else network_layers(image_size, self.network)
        return {**layers, **self.given_layers}


LAYER_NAMES = tuple(name for name in LayerSettings.model_fields if name != "network")
"""Layers that can be set one by one, named as in `NetworkSpec`."""


class RuntimeSettings(Settings):
    """How a machine does the work: what it computes with, how much at a time, when it saves."""

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
    def _choices_fit(self) -> RuntimeSettings:
        if self.compile == "on" and self.checkpoint_activations:
            raise ValueError("compile=on does not go with checkpoint_activations=true: choose one of them")
        return self

    def save_is_due(self, step: int, seconds: float) -> bool:
        """Return whether to save after `step` steps, `seconds` after the last save."""
        return seconds >= self.checkpoint_every_seconds or _is_multiple(step, self.checkpoint_every_steps)

    def grid_is_due(self, step: int) -> bool:
        """Return whether a sample grid belongs after `step` steps."""
        return _is_multiple(step, self.grid_every_steps)


def _is_multiple(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0
