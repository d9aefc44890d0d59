"""Training from the checkpoint of another cohort: required agreement, and transfer of the weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from models.network.spec import REFERENCE_SIDE
from pipeline.artifacts.checkpoint import (
    CheckpointInfo,
    read_checkpoint_info,
    read_denoiser,
    verify_checkpoint,
)
from pipeline.errors import DataError, UsageError
from pipeline.records import CheckpointRef
from pipeline.stage import load_reference
from pipeline.train.parts import LAYER_NAMES

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from models.diffusion.denoiser import Denoiser
    from pipeline.train.settings import TrainSettings

Field = tuple[str, Sequence[str]]
"""Condition field: its name, and the names of its values in the order of their codes."""

_ROWS = "network.class_embedding.rows.weight"
_FEATURES = "network.class_embedding.features.weight"


def start_digest(settings: TrainSettings) -> str | None:
    """Return the digest of the checkpoint that `train.init_from` names, or None if there is none.

    Raises:
        DataError: not a finished checkpoint.
    """
    if settings.init_from is None:
        return None
    try:
        return load_reference(CheckpointRef, settings.init_from).digest
    except DataError as error:
        raise _named(error, settings.init_from) from error


def check_start(settings: TrainSettings, out: Path) -> None:
    """Check the checkpoint to start from, before an output directory is opened or replaced.

    Every content file is re-hashed; torch is not needed.

    Raises:
        DataError: it is missing, was changed, or its network or objective differs from the settings.
        UsageError: it is in the output directory, which may be replaced.
    """
    path = settings.init_from
    if path is None:
        return
    if path.resolve().is_relative_to(out.resolve()):
        raise UsageError(
            "the checkpoint to start from lies in the output directory",
            field="train.init_from",
            value=str(path),
            remedy="Name another --out.",
        )
    try:
        info = verify_checkpoint(path)
    except DataError as error:
        raise _named(error, path) from error
    _require_alike(info, settings)


@dataclass(frozen=True)
class Start:
    """The checkpoint that a training started from.

    Attributes:
        digest: its digest.
        cohorts: digests of the cohorts that its weights have seen, the latest first.
    """

    digest: str
    cohorts: tuple[str, ...]

    @classmethod
    def of(cls, digest: str, info: CheckpointInfo) -> Self:
        """Return the checkpoint of this digest and description as a start; each cohort is named once."""
        return cls(digest, tuple(dict.fromkeys((info.cohort_digest, *info.earlier_cohorts))))


def start_from(denoiser: Denoiser, path: Path, fields: Sequence[Field], *, digest: str) -> Start:
    """Copy the averaged weights of a checkpoint into a new denoiser, in place.

    Weights are matched by name. The embedding rows of condition fields and their values are matched by name
    too. A new value, such as a class that the checkpoint does not know, starts from the mean of the old rows
    of its field. A new field starts at zero and has no effect at first. If a field was removed, its row "not
    given" is added to every class.

    Args:
        denoiser: denoiser to train, fp32.
        path: checkpoint directory.
        fields: condition fields of the new denoiser, the class first.
        digest: digest that the checkpoint must have.

    Returns:
        The checkpoint, for the description of the new one.

    Raises:
        DataError: the checkpoint cannot be read, or its digest differs.
    """
    from models.checkpoint import load_into

    try:
        source, info = read_denoiser(path)
    except DataError as error:
        raise _named(error, path) from error
    if load_reference(CheckpointRef, path).digest != digest:
        raise DataError(
            "the checkpoint changed while it was opened",
            field="train.init_from",
            value=str(path),
            remedy="Run again.",
        )
    fresh, old = denoiser.state_dict(), source.state_dict()
    taken = {name: old.get(name, tensor) for name, tensor in fresh.items()}
    if _FEATURES in fresh and _FEATURES in old and fresh[_FEATURES].shape != old[_FEATURES].shape:
        taken[_FEATURES] = fresh[_FEATURES]
    taken[_ROWS] = _matched_rows(old[_ROWS], fields_of(info), fields)
    try:
        load_into(denoiser, taken)
    except ValueError as error:
        raise DataError(
            str(error), field="train.init_from", value=str(path), remedy="Start from another checkpoint."
        ) from error
    return Start.of(digest, info)


def fields_of(info: CheckpointInfo) -> list[Field]:
    """Return the condition fields of a checkpoint, the class first."""
    return [("class", info.classes), *((field.name, field.values) for field in info.conditions)]


def _matched_rows(rows: Tensor, old: Sequence[Field], new: Sequence[Field]) -> Tensor:
    """Return the embedding rows of the new fields: one row per value, and one for "not given"."""
    import torch

    known: dict[str, Mapping[str, Tensor]] = {}
    nulls: dict[str, Tensor] = {}
    first = 0
    for name, values in old:
        known[name] = dict(zip(values, rows[first : first + len(values)], strict=True))
        nulls[name] = rows[first + len(values)]
        first += len(values) + 1
    width = rows.shape[1]
    parts: list[Tensor] = []
    for name, values in new:
        if name not in known:
            parts.append(rows.new_zeros(len(values) + 1, width))
            continue
        mean = torch.stack(list(known[name].values())).mean(dim=0)
        parts += [torch.stack([known[name].get(value, mean) for value in values]), nulls[name][None]]
    gone = [null for name, null in nulls.items() if name not in {own for own, _ in new}]
    if gone:
        parts[0] = parts[0] + torch.stack(gone).sum(dim=0)
        parts[1] = parts[1] + torch.stack(gone).sum(dim=0)
    return torch.cat(parts)


def _require_alike(info: CheckpointInfo, settings: TrainSettings) -> None:
    """Raise DataError, naming both values, where checkpoint and settings disagree on what must be equal.

    Layers must agree if the settings name them. All else may differ from cohort to cohort: the U-Net is
    convolutional, and the rest are rows of the embedding.
    """
    if info.autoencoder is not None:
        raise DataError(
            "the checkpoint to start from denoises latents, which are of its own autoencoder alone",
            field="train.init_from",
            value=str(settings.init_from),
            remedy="Start from a checkpoint that was trained on pixels.",
        )
    there = {**_layers(info), "parametrisation": info.parametrisation, "sigma_data": info.sigma_data}
    here = {**settings.given_layers, "sigma_data": settings.sigma_data}
    if settings.parametrisation != "auto":
        here["parametrisation"] = settings.parametrisation
    for name, value in here.items():
        if there[name] != value:
            raise DataError(
                f"the checkpoint to start from has {name} {there[name]}, and train.{name} is {value}",
                field="train.init_from",
                value=str(settings.init_from),
                remedy=f"Set train.{name} to the checkpoint's, or start from another.",
            )


def network_to_train(settings: TrainSettings, image_size: tuple[int, int]) -> tuple[dict[str, Any], str]:
    """Return the layers as fields of `NetworkSpec`, and the parametrisation, for scans of a size.

    Layers are those of the checkpoint to start from, if there is one.
    """
    layers = settings.network_fields(settings.data_fields(image_size)["image_size"])
    small = settings.latent.enabled or max(image_size) <= REFERENCE_SIDE
    fitting = "edm" if small else "spectral"
    if settings.init_from is not None:
        info = read_checkpoint_info(settings.init_from)
        layers, fitting = layers | _layers(info), info.parametrisation
    return layers, fitting if settings.parametrisation == "auto" else settings.parametrisation


def _layers(info: CheckpointInfo) -> dict[str, Any]:
    from models.network.spec import NetworkSpec

    try:
        spec = NetworkSpec.from_dict(info.network)
    except (ValueError, TypeError) as error:
        raise DataError(
            str(error), field="train.init_from", remedy="Start from another checkpoint."
        ) from error
    return {name: getattr(spec, name) for name in LAYER_NAMES}


def _named(error: DataError, path: Path) -> DataError:
    """Return the error as one of `train.init_from`, of the same class."""
    return type(error)(
        error.problem,
        field="train.init_from",
        value=str(path),
        remedy="Name the directory of a finished checkpoint.",
    )
