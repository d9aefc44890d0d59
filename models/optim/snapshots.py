"""Snapshots of the weight averages during training, and averages of other lengths computed from them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from models.checkpoint import read_tensors, write_tensors
from models.optim.ema import MAX_PROFILE_ERROR, PowerFunctionAverages, Profile, mixture

FOLDER_NAME = "snapshots"

# Half the disk space of fp32. Its rounding (2^-12 of a weight) is far below the error of the mixture of
# profiles; that of bf16 (2^-9) is not.
_STORED = torch.float16


def snapshot_name(step: int) -> str:
    """Return the file name of a snapshot, relative to the checkpoint directory."""
    return f"{FOLDER_NAME}/step-{step:09d}.safetensors"


def step_of(name: str) -> int | None:
    """Return the step of a snapshot from its file name (without folder), or None for other files."""
    found = re.fullmatch(r"step-(\d{9})\.safetensors", name)
    return int(found[1]) if found else None


def snapshot_steps(num_steps: int, count: int) -> tuple[int, ...]:
    """Return ``count`` evenly spaced steps, the last of which is ``num_steps``; fewer if too few steps."""
    return tuple(sorted({max(round(num_steps * place / count), 1) for place in range(1, count + 1)}))


def write_snapshot(folder: Path, step: int, averages: PowerFunctionAverages) -> None:
    """Write all averages after ``step`` steps, in half the precision in which they are tracked.

    Args:
        folder: the checkpoint directory; its snapshots folder exists.
        step: number of steps done.
        averages: the averages.

    Raises:
        OSError: the file cannot be written.
    """
    stored = {name: _narrowed(tensor) for name, tensor in averages.tensors().items()}
    header = {"step": step, "lengths": list(averages.lengths)}
    write_tensors(folder / snapshot_name(step), stored, header)


def read_average(
    folder: Path, steps: Sequence[int], lengths: Sequence[float], wanted: Profile, like: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the average of any length at any snapshot's step (arXiv 2312.02696, section 3.2).

    A stored average is returned as stored; any other is the closest mixture of stored averages.

    Args:
        folder: the checkpoint directory.
        steps: steps of its snapshots.
        lengths: sigma_rel of the averages in each snapshot.
        wanted: (length, step) of the requested average.
        like: name -> tensor of the network that the average is for, which determines shapes and dtypes.

    Returns:
        Name -> tensor, on the CPU.

    Raises:
        ValueError: no mixture is close to the requested average, or a file is not a snapshot of this network.
        OSError: a file cannot be read.
    """
    stored = [(length, step) for step in sorted(steps) for length in lengths]
    factors, error = mixture(stored, wanted)
    if error > MAX_PROFILE_ERROR:
        raise ValueError(
            f"the snapshots hold no average of length {wanted[0]:g}: the closest mixture has an error of "
            f"{error:.0%}, more than {MAX_PROFILE_ERROR:.0%}"
        )
    # Summed in fp64, because factors of both signs nearly cancel.
    total = {name: torch.zeros(tensor.shape, dtype=torch.float64) for name, tensor in like.items()}
    for step in sorted(steps):
        weights = {
            length: float(factor)
            for factor, (length, own) in zip(factors, stored, strict=True)
            if own == step and factor != 0.0
        }
        if weights:
            _add(total, folder / snapshot_name(step), step, weights)
    return {name: tensor.to(like[name].dtype) for name, tensor in total.items()}


def _add(total: Mapping[str, Tensor], path: Path, step: int, weights: Mapping[float, float]) -> None:
    found = read_tensors(path)
    if found.metadata.get("step") != step:
        raise ValueError(f"{path.name} is the snapshot of another step")
    for length, factor in weights.items():
        for name, tensor in total.items():
            part = found.tensors.get(f"{length!r}.{name}")
            if part is None or part.shape != tensor.shape:
                raise ValueError(f"{path.name} misses the average {length:g} of {name}, or its shape differs")
            tensor.add_(part.double(), alpha=factor)


def _narrowed(tensor: Tensor) -> Tensor:
    """Return the tensor in 16 bits if its values fit."""
    if not tensor.is_floating_point() or bool(tensor.abs().max() > torch.finfo(_STORED).max):
        return tensor
    return tensor.to(_STORED)
