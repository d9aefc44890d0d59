"""Settings of the train stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from models.network.sizes import NetworkSize
from pipeline.artifacts.conditions import ConditionName, in_order
from pipeline.config import Settings
from pipeline.train.latent.settings import LatentSettings
from pipeline.train.private.settings import PrivateSettings

# The range of models.optim.ema, which is not imported here: recipes are read without torch.
Length = Annotated[float, Field(ge=0.005, le=0.28)]


class TrainSettings(Settings):
    """What decides a training run besides the cohort and the seed."""

    init_from: Path | None = Field(
        None,
        description="checkpoint of another cohort to start from, instead of from random weights; classes are "
        "matched by name, another image size is no obstacle",
    )
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
    label_dropout: float = Field(
        0.1, ge=0, le=1, description="share of labels hidden, which classifier-free guidance needs"
    )
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
        description="what the network learns beside the class: sex, age_band, view, findings (one condition "
        "each)",
    )
    min_combination_patients: int = Field(
        5,
        ge=1,
        le=1_000_000,
        description="combinations of conditions that fewer patients share are not kept for sampling",
    )
    horizontal_flip: bool = Field(
        False,
        description="mirror half of the scans; off, as a mirrored chest has its heart on the wrong side",
    )
    augment: float = Field(
        0.0,
        ge=0,
        le=1,
        description="probability of each geometric augmentation; the network is told of them and samples "
        "without, which helps where scans are scarce",
    )
    augment_mirror: bool = Field(
        False, description="mirroring is one of the augmentations of train.augment; samples are not mirrored"
    )
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
    loss_weighting: Literal["edm", "learned"] = Field(
        "edm",
        description="how noise levels count: as the parametrisation weighs them, or also divided by the loss "
        "that is learnt to be expected of each",
    )
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

    @field_validator("conditions")
    @classmethod
    def _conditions_in_order(cls, asked: tuple[ConditionName, ...]) -> tuple[ConditionName, ...]:
        return in_order(asked)

    latent: LatentSettings = Field(
        default_factory=LatentSettings, description="latent diffusion: the autoencoder and its latents"
    )

    dp: PrivateSettings = Field(
        default_factory=PrivateSettings, description="differential privacy: a guarantee for each patient"
    )

    @model_validator(mode="after")
    def _guarantee_holds(self) -> TrainSettings:
        """Refuse what would look at the scans beside the noisy gradient."""
        if self.dp.epsilon is None:
            return self
        unfit = {
            "class_balance": (self.class_balance > 0.0, "0", "it draws patients of rare classes more often"),
            "latent.enabled": (self.latent.enabled, "false", "its autoencoder is trained without noise"),
            "stop_when_memorising": (self.stop_when_memorising, "false", "it decides by losses of the scans"),
            "loss_weighting": (
                self.loss_weighting == "learned",
                "edm",
                "it learns from the losses themselves",
            ),
            "max_minutes": (self.max_minutes is not None, "null", "the noise follows from train.num_steps"),
            "precision": (self.precision == "bf16", "fp32", "gradients of single scans are taken in fp32"),
            "compile": (self.compile == "on", "off", "gradients of single scans are taken layer by layer"),
            "checkpoint_activations": (self.checkpoint_activations, "false", "each layer may run only once"),
        }
        _refuse_beside("dp.epsilon", unfit)
        return self

    @model_validator(mode="after")
    def _latents_fit(self) -> TrainSettings:
        """Refuse what would have to change scans that were encoded once, before training began."""
        if not self.latent.enabled:
            return self
        why = "latents are encoded once, from scans as they are"
        unfit = {
            "horizontal_flip": (self.horizontal_flip, "false", why),
            "augment": (self.augment > 0.0, "0", why),
        }
        _refuse_beside("latent.enabled", unfit)
        if self.init_from is not None:
            raise ValueError(
                "train.init_from cannot be used with train.latent.enabled: each cohort trains an "
                "autoencoder of its own, whose latents mean something else"
            )
        return self

    @model_validator(mode="after")
    def _choices_fit(self) -> TrainSettings:
        if self.compile == "on" and self.checkpoint_activations:
            raise ValueError("compile=on does not go with checkpoint_activations=true: choose one of them")
        return self

    @model_validator(mode="after")
    def _network_fits(self) -> TrainSettings:
        """Refuse a network that cannot be built while the recipe is read, not when training starts."""
        from models.network.spec import NetworkSpec

        NetworkSpec(image_size=(64, 64), num_classes=1, **self.network_fields((64, 64)))
        return self

    @model_validator(mode="after")
    def _mirror_has_an_effect(self) -> TrainSettings:
        if self.augment_mirror and self.augment == 0.0:
            raise ValueError("augment_mirror does nothing at augment=0: set a probability, for instance 0.12")
        return self

    @model_validator(mode="after")
    def _averages_can_be_made(self) -> TrainSettings:
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

    def content_settings(self) -> TrainSettings:
        """Return these settings without those that change how much fits in memory, not what is learnt.

        A training that ran out of memory can so be gone on with in smaller parts. The checkpoint to start
        from is left out too: it is an input, known by its digest.
        """
        unset = {"micro_batch": None, "checkpoint_activations": False, "init_from": None}
        return self.model_copy(update=unset)

    def data_fields(self, image_size: tuple[int, int]) -> dict[str, Any]:
        """Return the fields of `NetworkSpec` that say what is denoised: scans of a size, or their latents."""
        if not self.latent.enabled:
            return {"image_size": image_size}
        spec = self.latent.autoencoder_spec(image_size)
        return {"image_size": spec.latent_size, "in_channels": spec.latent_channels}

    def network_fields(self, image_size: tuple[int, int]) -> dict[str, Any]:
        """Return the fields of `NetworkSpec` that are settings, for images (or latents) of a size."""
        from models.network.sizes import network_layers, plain_layers

        layers = plain_layers(self.channels) if self.channels else network_layers(image_size, self.network)
        given = {name: getattr(self, name) for name in layers if getattr(self, name) is not None}
        return {
            **layers,
            **given,
            # NUM_FEATURES of models.diffusion.augment, which is not imported here: recipes are read without
            # torch.
            "augment_features": 7 if self.augment > 0.0 else 0,
        }


def _refuse_beside(setting: str, unfit: Mapping[str, tuple[bool, str, str]]) -> None:
    """Raise ValueError for the first of name -> (whether it is set, what to set instead, why) that is set."""
    for name, (is_set, value, why) in unfit.items():
        if is_set:
            raise ValueError(
                f"train.{name} cannot be used with train.{setting}: {why}; set train.{name}={value}"
            )
