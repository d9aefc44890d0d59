"""How many scans a training computes on at a time, from the memory that is free before it starts."""

from __future__ import annotations

import logging
import math

import torch

from models.diffusion.denoiser import Denoiser
from models.optim.memory import step_bytes
from models.optim.precision import Precision
from pipeline.cost.free_memory import free_memory
from pipeline.cost.memory import bytes_words
from pipeline.errors import TrainingError

logger = logging.getLogger(__name__)

USABLE = 0.9
"""Share of the free memory that a training plans with."""

_SMALLEST_SIDE, _SIDE_STEP = 16, 8


def scans_that_fit(
    trial: Denoiser,
    precision: Precision,
    device: torch.device,
    *,
    each: int,
    count: int,
    averages: int,
    recompute: bool,
    processes: int = 1,
) -> int | None:
    """Return the largest of count, half of it, a quarter, ... that fits into memory.

    Args:
        trial: the denoiser that computes, in its precision; not changed.
        precision: its precision.
        device: where it will compute.
        each: memory of a scan in a step (`models.optim.memory.step_bytes`), bytes.
        count: scans of a batch on this process.
        averages: averages of the weights that are tracked.
        recompute: whether activations are recomputed.
        processes: processes that share the memory.

    Returns:
        The number, or None if all fit or the free memory is not known.

    Raises:
        TrainingError: not even one fits.
    """
    free = free_memory(device)
    if free is None:
        return None
    # Of each weight in fp32: master, gradient, two moments, averages; and of the copy that computes.
    copies = 4 * (4 + averages) + (4 if precision.dtype == "bf16" else 0)
    states = copies * sum(parameter.numel() for parameter in trial.parameters())
    room = USABLE * free / processes - states
    fits = int(room // max(each, 1))
    if fits >= count:
        return None
    if fits < 1:
        raise _too_small(trial, room, each, free=free, recompute=recompute)
    chosen = count
    while chosen > fits:
        chosen = -(-chosen // 2)
    logger.info(
        "memory: %s a scan and %s are free, so %d of %d scans are computed at a time (train.micro_batch)",
        bytes_words(each),
        bytes_words(free),
        chosen,
        count,
    )
    return chosen


def _too_small(trial: Denoiser, room: float, each: int, *, free: int, recompute: bool) -> TrainingError:
    """Return an error that names what would fit."""
    height, width = trial.spec.image_size
    kind = "latent" if trial.spec.in_channels > 1 else "scan"
    remedies = []
    if not recompute and step_bytes(trial, recompute=True) <= room:
        remedies.append("Set train.checkpoint_activations=true, with which one fits.")
    side = math.sqrt(max(room, 0.0) / each) * max(height, width) // _SIDE_STEP * _SIDE_STEP
    if side >= _SMALLEST_SIDE and kind == "scan":
        remedies.append(f"Ingest at {side:.0f} pixels (ingest.image_size), at which this network fits.")
    remedies.append("A smaller train.network needs less memory.")
    return TrainingError(
        f"training on one {kind} of {height}x{width} at a time takes {bytes_words(each)} of memory beside "
        f"the weights, and {bytes_words(free)} are free",
        field="train.network",
        remedy=" ".join(remedies),
    )
