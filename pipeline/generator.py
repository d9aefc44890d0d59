"""A finished checkpoint as the stages after training see it: its description and its denoiser."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.config import read_model
from pipeline.errors import DataError
from pipeline.records import CheckpointRef
from pipeline.stage import verify_reference

if TYPE_CHECKING:
    from models.denoiser import Denoiser

MODEL_NAME = "model.safetensors"
INFO_NAME = "checkpoint.json"
FORMAT_VERSION: Literal[1] = 1


class CheckpointInfo(BaseModel):
    """`checkpoint.json`: all that sampling needs to know about a denoiser besides its weights.

    Attributes:
        format_version: version of the checkpoint layout.
        network: fields of `models.network.NetworkSpec`.
        sigma_data: standard deviation of the data assumed by the preconditioning.
        parametrisation: what the network predicts, `edm` or `flow`.
        classes: label names in the order of the class indices.
        image_size: (height, width) in pixels.
        bit_depth: 8 or 16, the depth of the cohort's stored pixels.
        cohort_digest: content digest of the cohort it was trained on.
        cohort_name: name of that cohort.
        num_steps: optimiser steps done.
        images_seen: scans shown, repeats counted.
        seed: run seed.
        precision: arithmetic of the network, `fp32` or `bf16`.
        channels_last: memory layout of the network.
        num_threads: CPU threads used in training.
        device: kind of device, `cpu` or `cuda`.
        libraries: versions of Python and of the libraries that decide the numbers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format_version: Literal[1] = FORMAT_VERSION
    network: dict[str, Any]
    sigma_data: float = Field(gt=0)
    parametrisation: Literal["edm", "flow"] = "edm"
    classes: tuple[str, ...] = Field(min_length=1)
    image_size: tuple[int, int]
    bit_depth: Literal[8, 16]
    cohort_digest: str = Field(pattern=r"^[0-9a-f]{64}$")
    cohort_name: str
    num_steps: int = Field(ge=1)
    images_seen: int = Field(ge=1)
    seed: int
    precision: Literal["fp32", "bf16"]
    channels_last: bool
    num_threads: int = Field(ge=1)
    device: str
    libraries: dict[str, str]


def library_versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries that decide the numbers."""
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
        DataError: the file is missing or holds other fields than it should.
    """
    return read_model(CheckpointInfo, checkpoint / INFO_NAME, role="checkpoint", remedy="Train again.")


def load_denoiser(checkpoint: Path, cohort_digest: str | None = None) -> tuple[Denoiser, CheckpointInfo]:
    """Load the EMA denoiser of a finished checkpoint, ready to sample, on the device chosen for this machine.

    Every content file is re-hashed first; the weights are read as safetensors, which cannot run code.

    Args:
        checkpoint: a checkpoint directory made by `train`.
        cohort_digest: digest of the cohort it must have been trained on; None accepts any.

    Returns:
        The denoiser in evaluation mode, without gradients, and the description of the checkpoint.

    Raises:
        TamperedError: a file differs from what training recorded.
        DataError: not a checkpoint, one of another cohort, or weights that do not fit the network.
    """
    from models.checkpoint import load_into, read_tensors
    from models.denoiser import Denoiser
    from models.network import NetworkSpec
    from models.precision import Precision, apply_precision, default_device

    verify_reference(CheckpointRef, checkpoint)
    info = read_checkpoint_info(checkpoint)
    if cohort_digest is not None and info.cohort_digest != cohort_digest:
        raise DataError(
            "the checkpoint was trained on another cohort",
            field="checkpoint",
            value=f"cohort digest {info.cohort_digest[:12]}, expected {cohort_digest[:12]}",
            remedy="Name the checkpoint of this cohort, or train one.",
        )
    try:
        spec = NetworkSpec.from_dict(info.network)
        if spec.num_classes != len(info.classes) or spec.image_size != info.image_size:
            raise ValueError("the network does not fit the classes and image size beside it")
        denoiser = Denoiser(spec, sigma_data=info.sigma_data, parametrisation=info.parametrisation)
        load_into(denoiser, read_tensors(checkpoint / MODEL_NAME, denoiser.state_dict()).tensors)
    except (ValueError, TypeError) as error:
        raise DataError(str(error), field="checkpoint", remedy="Train again.") from error
    precision = Precision(info.precision, info.channels_last)
    apply_precision(denoiser.to(default_device()), precision)
    return denoiser.eval().requires_grad_(False), info
