"""Finished checkpoints as read by the stages after training: description and denoiser."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline.artifacts.condition_counts import Combination
from pipeline.artifacts.conditions import ConditionField
from pipeline.artifacts.guarantee import DifferentialPrivacy
from pipeline.config import read_model
from pipeline.errors import DataError
from pipeline.records import CheckpointRef
from pipeline.stage import verify_reference

if TYPE_CHECKING:
    from torch import Tensor

    from models.diffusion.denoiser import Denoiser
    from models.latent.autoencoder import Autoencoder
    from models.latent.autoencoder_spec import AutoencoderSpec

MODEL_NAME = "model.safetensors"
AUTOENCODER_NAME = "autoencoder.safetensors"
INFO_NAME = "checkpoint.json"
FORMAT_VERSION: Literal[1] = 1
SPECTRAL_LAW = 2
"""Number of the law that `models/diffusion/spectral.py` assumes, without which its weights mean nothing;
raise it with every change of the law."""


class CheckpointInfo(BaseModel):
    """`checkpoint.json`: everything that sampling needs besides the weights of a denoiser.

    Attributes:
        format_version: version of the checkpoint layout.
        network: fields of `models.network.network.NetworkSpec`.
        autoencoder: fields of `models.latent.autoencoder_spec.AutoencoderSpec` if the denoiser works on
            latents; its weights and its scaling are `autoencoder.safetensors`.
        sigma_data: standard deviation of the data assumed by the preconditioning.
        parametrisation: prediction target of the network, `edm`, `flow` or `spectral`.
        spectral_law: number of the law that `spectral` assumes, `SPECTRAL_LAW`; None for the others.
        classes: label names in the order of the class indices.
        conditions: condition fields besides the class, in the order of the condition codes.
        combinations: frequencies of the combinations of conditions in the train split, for sampling
            (private).
        image_size: (height, width) in pixels.
        bit_depth: 8 or 16, the depth of the cohort's stored pixels.
        cohort_digest: content digest of the cohort it was trained on.
        cohort_name: name of that cohort.
        num_steps: optimiser steps done.
        images_seen: number of scans seen, with repeats.
        ema_step: step at which the weights in `model.safetensors` were averaged; None if not recorded.
        ema_length: length of that average.
        ema_lengths: lengths of the averages in every snapshot.
        snapshots: steps of the snapshots of the averages, ascending.
        init_digest: digest of the checkpoint that training started from; None for random weights.
        earlier_cohorts: content digests of the cohorts of that checkpoint and of those that it started from
            in turn, the latest first: the weights have seen their scans too.
        differential_privacy: guarantee of the training; None without one.
        seed: run seed.
        precision: arithmetic of the network, `fp32` or `bf16`.
        channels_last: memory layout of the network.
        num_threads: CPU threads used in training.
        device: kind of device, `cpu` or `cuda`.
        libraries: versions of Python and of the libraries that the numbers depend on.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = FORMAT_VERSION
    network: dict[str, Any]
    autoencoder: dict[str, Any] | None = None
    sigma_data: float = Field(gt=0)
    parametrisation: Literal["edm", "flow", "spectral"] = "edm"
    spectral_law: int | None = None
    classes: tuple[str, ...] = Field(min_length=1)
    conditions: tuple[ConditionField, ...] = ()
    combinations: tuple[Combination, ...] = ()
    image_size: tuple[int, int]
    bit_depth: Literal[8, 16]
    cohort_digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    cohort_name: str
    num_steps: int = Field(ge=1)
    images_seen: int = Field(ge=1)
    ema_step: int | None = Field(None, ge=1)
    ema_length: float | None = Field(None, gt=0)
    ema_lengths: tuple[float, ...] = ()
    snapshots: tuple[Annotated[int, Field(ge=1)], ...] = ()
    init_digest: str | None = Field(None, pattern=r"^[0-9a-f]{64}$")
    earlier_cohorts: tuple[Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")], ...] = ()
    differential_privacy: DifferentialPrivacy | None = None
    seed: int
    precision: Literal["fp32", "bf16"]
    channels_last: bool
    num_threads: int = Field(ge=1)
    device: str
    libraries: dict[str, str]

    @model_validator(mode="after")
    def _assumes_the_law(self) -> CheckpointInfo:
        if self.spectral_law != spectral_law(self.parametrisation):
            raise ValueError(
                "another version trained it, which assumes another power of each spatial frequency "
                f"(law {self.spectral_law or 1}, here {SPECTRAL_LAW})"
            )
        return self


def spectral_law(parametrisation: str) -> int | None:
    """Return the number of the law that a parametrisation assumes, None if it assumes none."""
    return SPECTRAL_LAW if parametrisation == "spectral" else None


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that the numbers depend on."""
    versions = {"python": platform.python_version()}
    for name in ("torch", "monai", "numpy", "safetensors"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "unknown"
    return versions


def read_checkpoint_info(checkpoint: Path) -> CheckpointInfo:
    """Read `checkpoint.json` of a checkpoint directory.

    Raises:
        DataError: the file is missing or has unexpected fields.
    """
    return read_model(CheckpointInfo, checkpoint / INFO_NAME, role="checkpoint", remedy="Train again.")


def verify_checkpoint(checkpoint: Path, cohort_digest: str | None = None) -> CheckpointInfo:
    """Re-hash every content file of a finished checkpoint and return its description.

    Args:
        checkpoint: a checkpoint directory made by `train`.
        cohort_digest: digest of the cohort it must have been trained on; None accepts any.

    Raises:
        TamperedError: a file differs from what training recorded.
        DataError: not a checkpoint, or one of another cohort.
    """
    verify_reference(CheckpointRef, checkpoint)
    info = read_checkpoint_info(checkpoint)
    if cohort_digest is not None and info.cohort_digest != cohort_digest:
        raise DataError(
            "the checkpoint was trained on another cohort",
            field="checkpoint",
            value=f"cohort digest {info.cohort_digest[:12]}, expected {cohort_digest[:12]}",
            remedy="Name the checkpoint of this cohort, or train one.",
        )
    return info


def require_sorted_classes(info: CheckpointInfo) -> None:
    """Refuse a checkpoint of an earlier version, whose labels are numbered in the manifest's order.

    Raises:
        DataError: its classes are not sorted by name, as those of every cohort and release are.
    """
    if list(info.classes) != sorted(info.classes):
        raise DataError(
            "its classes are not numbered by their sorted names, as cohorts and releases number them: an "
            "earlier version trained it",
            field="checkpoint",
            value=", ".join(info.classes) if len(info.classes) <= 8 else None,
            remedy="Ingest the cohort again and train on it. Training that starts from this checkpoint "
            "(train.init_from) matches classes by name.",
        )


def load_denoiser(
    checkpoint: Path,
    cohort_digest: str | None = None,
    *,
    verified: CheckpointInfo | None = None,
    ema_length: float | None = None,
    step: int | None = None,
) -> tuple[Denoiser, CheckpointInfo]:
    """Load the averaged denoiser of a finished checkpoint, ready to sample, on this machine's device.

    Every content file is re-hashed first; the weights are read as safetensors, which cannot run code.

    Args:
        checkpoint: a checkpoint directory made by `train`.
        cohort_digest: digest of the cohort it must have been trained on; None accepts any.
        verified: what `verify_checkpoint` returned for it, if its files were hashed already.
        ema_length: length of the average; None takes that of the model.
        step: step of the average; None takes that of the model.

    Returns:
        The denoiser in evaluation mode, without gradients, and the description of the checkpoint.

    Raises:
        TamperedError: a file differs from what training recorded.
        DataError: not a checkpoint, one of another cohort, weights that do not fit the network, or an average
            that cannot be computed from its snapshots.
    """
    denoiser, info = read_denoiser(
        checkpoint, cohort_digest, verified=verified, ema_length=ema_length, step=step
    )
    return ready(denoiser, info), info


def ready(denoiser: Denoiser, info: CheckpointInfo) -> Denoiser:
    """Return the denoiser on this machine's device, in the checkpoint's arithmetic, without gradients."""
    from models.devices import default_device
    from models.optim.precision import Precision, apply_precision

    apply_precision(denoiser.to(default_device()), Precision(info.precision, info.channels_last))
    return denoiser.eval().requires_grad_(False)


def read_denoiser(
    checkpoint: Path,
    cohort_digest: str | None = None,
    *,
    verified: CheckpointInfo | None = None,
    ema_length: float | None = None,
    step: int | None = None,
) -> tuple[Denoiser, CheckpointInfo]:
    """Read the averaged denoiser of a finished checkpoint as it is stored: fp32, on the CPU.

    Arguments and errors are those of `load_denoiser`.
    """
    from models.checkpoint import load_into, read_tensors
    from models.diffusion.denoiser import Denoiser
    from models.network.network import NetworkSpec

    info = verified or verify_checkpoint(checkpoint, cohort_digest)
    try:
        spec = NetworkSpec.from_dict(info.network)
        if (spec.num_classes, spec.in_channels, spec.image_size) != (len(info.classes), *_data_shape(info)):
            raise ValueError("the network does not fit the classes and image size beside it")
        _check_conditions(info, spec.num_values)
        denoiser = Denoiser(spec, sigma_data=info.sigma_data, parametrisation=info.parametrisation)
        load_into(denoiser, read_tensors(checkpoint / MODEL_NAME, denoiser.state_dict()).tensors)
    except (ValueError, TypeError) as error:
        raise DataError(str(error), field="checkpoint", remedy="Train again.") from error
    if ema_length not in (None, info.ema_length) or step not in (None, info.ema_step):
        load_into(denoiser, _other_average(checkpoint, info, denoiser, ema_length, step))
    return denoiser, info


def _other_average(
    checkpoint: Path, info: CheckpointInfo, denoiser: Denoiser, ema_length: float | None, step: int | None
) -> dict[str, Tensor]:
    from models.optim.snapshots import read_average

    length, step = ema_length or info.ema_length, step or info.ema_step
    if length is None or step is None or not info.snapshots:
        raise DataError(
            "the checkpoint has no snapshots to make another average from",
            field="sample.ema_length",
            value=ema_length,
            remedy="Leave it out, or train again with train.ema_snapshots above 0.",
        )
    try:
        known = [own for own in info.snapshots if own <= step]
        return read_average(checkpoint, known, info.ema_lengths, (length, step), denoiser.state_dict())
    except (ValueError, OSError) as error:
        raise DataError(
            str(error) if isinstance(error, ValueError) else "a snapshot cannot be read",
            field="sample.ema_length",
            value=length,
            remedy=f"Choose one of {list(info.ema_lengths)}, or one near them.",
        ) from error


def _check_conditions(info: CheckpointInfo, num_values: tuple[int, ...]) -> None:
    """Raise ValueError unless the conditions are those of the network, and their codes in its range."""
    if num_values[1:] != tuple(len(field.values) for field in info.conditions):
        raise ValueError("the network does not fit the conditions beside it")
    for row in info.combinations:
        codes = (row.label, *row.codes)
        if len(codes) != len(num_values) or row.label >= num_values[0]:
            raise ValueError("combinations do not fit the conditions")
        if not all(0 <= code <= null for code, null in zip(codes, num_values, strict=True)):
            raise ValueError("combinations hold codes out of range")


def load_autoencoder(checkpoint: Path, *, verified: CheckpointInfo | None = None) -> Autoencoder | None:
    """Load the autoencoder of a finished checkpoint, on the device chosen for this machine.

    Args:
        checkpoint: a checkpoint directory made by `train`.
        verified: what `verify_checkpoint` returned for it, if its files were hashed already.

    Returns:
        The frozen autoencoder, or None if the denoiser of the checkpoint works on pixels.

    Raises:
        TamperedError: a file differs from what training recorded.
        DataError: not a checkpoint, or weights or scaling that cannot be used.
    """
    from models.checkpoint import load_into, read_tensors
    from models.devices import default_device
    from models.latent.autoencoder import Autoencoder, freeze_autoencoder

    info = verified or verify_checkpoint(checkpoint)
    if info.autoencoder is None:
        return None
    try:
        autoencoder = Autoencoder(_autoencoder_spec(info, info.autoencoder))
        load_into(autoencoder, read_tensors(checkpoint / AUTOENCODER_NAME, autoencoder.state_dict()).tensors)
        if not bool((autoencoder.scale > 0).all()):
            raise ValueError("the autoencoder's scale is not positive")
    except OSError as error:
        raise DataError(
            f"{AUTOENCODER_NAME} cannot be read", field="checkpoint", remedy="Train again."
        ) from error
    except (ValueError, TypeError) as error:
        raise DataError(str(error), field="checkpoint", remedy="Train again.") from error
    return freeze_autoencoder(autoencoder.to(default_device()))


def _data_shape(info: CheckpointInfo) -> tuple[int, tuple[int, int]]:
    """Return (channels, (height, width)) of what the denoiser of a checkpoint works on."""
    if info.autoencoder is None:
        return 1, info.image_size
    spec = _autoencoder_spec(info, info.autoencoder)
    return spec.latent_channels, spec.latent_size


def _autoencoder_spec(info: CheckpointInfo, fields: dict[str, Any]) -> AutoencoderSpec:
    from models.latent.autoencoder_spec import AutoencoderSpec

    spec = AutoencoderSpec.from_dict(fields)
    if spec.image_size != info.image_size:
        raise ValueError("the autoencoder does not fit the image size beside it")
    return spec
