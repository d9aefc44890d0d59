"""Settings of the train stage."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import Field, model_validator

from pipeline.config import Settings
from pipeline.train.latent.settings import LatentSettings
from pipeline.train.parts import (
    AverageSettings,
    LayerSettings,
    ObjectiveSettings,
    RuntimeSettings,
    ScanSettings,
    ScheduleSettings,
)
from pipeline.train.private.settings import PrivateSettings

PartT = TypeVar("PartT", bound=Settings)


# Fields stand in the order of the last base first.
class TrainSettings(
    RuntimeSettings, LayerSettings, AverageSettings, ObjectiveSettings, ScanSettings, ScheduleSettings
):
    """Settings that determine a training run, besides the cohort and the seed."""

    init_from: Path | None = Field(
        None,
        description="checkpoint of another cohort to start from instead of random weights; classes are "
        "matched by name, and the image size may differ",
    )
    latent: LatentSettings = Field(
        default_factory=LatentSettings, description="latent diffusion: the autoencoder and its latents"
    )
    dp: PrivateSettings = Field(
        default_factory=PrivateSettings, description="differential privacy, with a guarantee per patient"
    )

    @property
    def schedule(self) -> ScheduleSettings:
        """Number of steps, and the optimiser."""
        return self._part(ScheduleSettings)

    @property
    def scans(self) -> ScanSettings:
        """Sampling of the scans, and their conditions."""
        return self._part(ScanSettings)

    @property
    def objective(self) -> ObjectiveSettings:
        """Training objective."""
        return self._part(ObjectiveSettings)

    @property
    def averages(self) -> AverageSettings:
        """Averages of the weights."""
        return self._part(AverageSettings)

    @property
    def layers(self) -> LayerSettings:
        """Layers of the network."""
        return self._part(LayerSettings)

    @property
    def runtime(self) -> RuntimeSettings:
        """Use of the machine."""
        return self._part(RuntimeSettings)

    @property
    def is_private(self) -> bool:
        """Whether a guarantee per patient is requested."""
        return self.dp.epsilon is not None

    def _part(self, kind: type[PartT]) -> PartT:
        return kind(**{name: getattr(self, name) for name in kind.model_fields})

    @model_validator(mode="after")
    def _guarantee_holds(self) -> TrainSettings:
        """Refuse settings that would use the scans other than through the noisy gradient."""
        if not self.is_private:
            return self
        unfit = {
            "class_balance": (self.class_balance > 0.0, "0", "it draws patients of rare classes more often"),
            "latent.enabled": (self.latent.enabled, "false", "its autoencoder is trained without noise"),
            "stop_when_memorising": (self.stop_when_memorising, "false", "it decides by losses of the scans"),
            "max_minutes": (self.max_minutes is not None, "null", "the noise follows from train.num_steps"),
            "precision": (self.precision == "bf16", "fp32", "gradients of single scans are taken in fp32"),
            "compile": (self.compile == "on", "off", "gradients of single scans are taken layer by layer"),
            "checkpoint_activations": (self.checkpoint_activations, "false", "each layer may run only once"),
        }
        _refuse_beside("dp.epsilon", unfit)
        return self

    @model_validator(mode="after")
    def _latents_fit(self) -> TrainSettings:
        """Refuse settings that would change scans, which are encoded once before training."""
        if not self.latent.enabled:
            return self
        why = "latents are encoded once, from scans as they are"
        _refuse_beside("latent.enabled", {"augment": (self.augment > 0.0, "0", why)})
        if self.init_from is not None:
            raise ValueError(
                "train.init_from cannot be used with train.latent.enabled: each cohort trains an "
                "autoencoder of its own, whose latents mean something else"
            )
        return self

    def content_settings(self) -> TrainSettings:
        """Return these settings without those that change the memory use but not the result.

        So a training that ran out of memory can be resumed with smaller micro-batches. The checkpoint to
        start from is left out too, because it is an input, identified by its digest.
        """
        unset = {"micro_batch": None, "checkpoint_activations": False, "init_from": None}
        return self.model_copy(update=unset)

    def data_fields(self, image_size: tuple[int, int]) -> dict[str, Any]:
        """Return the fields of `NetworkSpec` for the data to denoise: scans of a size, or their latents."""
        if not self.latent.enabled:
            return {"image_size": image_size}
        spec = self.latent.autoencoder_spec(image_size)
        return {"image_size": spec.latent_size, "in_channels": spec.latent_channels}

    def network_fields(self, image_size: tuple[int, int]) -> dict[str, Any]:
        """Return the fields of `NetworkSpec` that are settings, for images (or latents) of a size."""
        # NUM_FEATURES of models.diffusion.augment, which is not imported, because recipes are read without
        # torch.
        return {**self.layers_for(image_size), "augment_features": 7 if self.augment > 0.0 else 0}


def _refuse_beside(setting: str, unfit: Mapping[str, tuple[bool, str, str]]) -> None:
    """Raise ValueError for the first of name -> (whether it is set, what to set instead, why) that is set."""
    for name, (is_set, value, why) in unfit.items():
        if is_set:
            raise ValueError(
                f"train.{name} cannot be used with train.{setting}: {why}; set train.{name}={value}"
            )
