"""Which arithmetic trains fastest on this machine: a short measured probe over type, layout and compiling."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import torch
from torch import nn

from models.compiling import Compute, compiled
from models.denoiser import Denoiser
from models.memory import out_of_memory

logger = logging.getLogger(__name__)

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Name -> type of the network's weights and activations while it computes."""

PREFERENCE_MARGIN = 1.10

ModelT = TypeVar("ModelT", bound=nn.Module)


@dataclass(frozen=True)
class Precision:
    """A chosen arithmetic, recorded in the checkpoint and used again on resume.

    Attributes:
        dtype: ``fp32`` or ``bf16`` (of the network that computes; what learns and is saved stays fp32).
        channels_last: whether convolution weights lie channels-last in memory.
        measured: choice -> training images a second seen by the probe; empty if nothing was probed.
        compiled: whether the network runs through `torch.compile`.
    """

    dtype: str
    channels_last: bool
    measured: dict[str, float] = field(default_factory=dict)
    compiled: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {sorted(DTYPES)}, got {self.dtype!r}")

    @property
    def name(self) -> str:
        """The choice in words, for instance ``bf16 channels-last``."""
        words = [
            self.dtype,
            "channels-last" if self.channels_last else "",
            "compiled" if self.compiled else "",
        ]
        return " ".join(word for word in words if word)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)


CHOICES = (
    Precision("bf16", channels_last=False),
    Precision("bf16", channels_last=True),
    Precision("fp32", channels_last=True),
    Precision("fp32", channels_last=False),
)
"""What the probe tries, in order of preference: a later one must be clearly faster to be taken."""


def apply_precision(model: ModelT, precision: Precision) -> ModelT:
    """Set layout and type of a denoiser or autoencoder in place and return it; bf16 rounds its weights.

    Only its ``network`` is narrowed: noise levels, preconditioning, scaling and the result stay fp32.
    """
    layout = torch.channels_last if precision.channels_last else torch.contiguous_format
    model.network.to(DTYPES[precision.dtype])
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)
    return model


def probe_precision(
    denoiser: Denoiser, *, batch_size: int, choices: Sequence[Precision] = CHOICES, num_rounds: int = 5
) -> Precision:
    """Time forward and backward of a few batches under each choice; the denoiser is left as it was.

    The choices take turns, round after round, and the fastest batch of each counts: another program that
    takes the cores for a moment then slows all of them alike, or none. A batch that does not fit in memory is
    halved.

    Args:
        denoiser: the denoiser to be trained, on its device.
        batch_size: scans a batch of the probe.
        choices: what to try, in order of preference.
        num_rounds: timed batches of each choice, after one that is not timed.

    Returns:
        The choice to use, with all measured rates. A later choice wins only when it is faster by 10 %, so
        that the noise of a short measurement does not decide between near equals.

    Raises:
        ValueError: ``choices`` is empty.
    """
    if not choices:
        raise ValueError("choices must not be empty")
    trials = [apply_precision(copy.deepcopy(denoiser), choice).train() for choice in choices]
    while True:
        try:
            measured = _rates(choices, trials, batch_size, num_rounds)
            break
        except (RuntimeError, MemoryError) as error:
            if batch_size == 1 or not out_of_memory(error):
                raise
        batch_size //= 2
    best = choices[0]
    for choice in choices[1:]:
        if measured[choice.name] > PREFERENCE_MARGIN * measured[best.name]:
            best = choice
    return Precision(best.dtype, best.channels_last, measured)


def probe_compiled(
    denoiser: Denoiser,
    precision: Precision,
    *,
    batch_size: int,
    images_left: int,
    seconds_left: float | None = None,
    must: bool = False,
) -> Precision:
    """Decide whether `torch.compile` pays: what it saves over the images left against what compiling takes.

    Args:
        denoiser: the denoiser to be trained, on its device; left as it was.
        precision: the arithmetic to compute in.
        batch_size: scans a forward pass of the training.
        images_left: images that training will still show on this device.
        seconds_left: training time that is left, if it is limited.
        must: compile if it works at all, whether or not it pays.

    Returns:
        ``precision`` with ``compiled`` and the measured rates filled in. A network that does not compile
        here stays as it is, with a warning.
    """
    trial = apply_precision(copy.deepcopy(denoiser), precision).train()
    faster = replace(precision, compiled=True)
    started = time.perf_counter()
    compute = compiled(trial)
    try:
        _batch_seconds(trial, batch_size, compute)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return precision
    compile_seconds = time.perf_counter() - started
    if compute.failed:
        return precision
    eager, fast = (
        min(_batch_seconds(trial, batch_size, call) for _ in range(5)) for call in (trial, compute)
    )
    rates = {
        precision.name: round(batch_size / eager, 1),
        faster.name: round(batch_size / fast, 1),
    }
    eager_seconds = eager / batch_size * images_left
    if seconds_left is not None:
        eager_seconds = min(eager_seconds, seconds_left)
    saved = (1.0 - fast / eager) * eager_seconds
    pays = must or saved > compile_seconds
    logger.info(
        "compiling took %.1f s and would save %.0f s: %s",
        compile_seconds,
        saved,
        "used" if pays else "not used",
    )
    return replace(precision, compiled=pays, measured={**precision.measured, **rates})


def _rates(
    choices: Sequence[Precision], trials: Sequence[Denoiser], batch_size: int, num_rounds: int
) -> dict[str, float]:
    fastest = [float("inf")] * len(trials)
    for turn in range(num_rounds + 1):
        for position, trial in enumerate(trials):
            seconds = _batch_seconds(trial, batch_size, trial)
            if turn:
                fastest[position] = min(fastest[position], seconds)
    return {
        choice.name: round(batch_size / seconds, 1) for choice, seconds in zip(choices, fastest, strict=True)
    }


def _batch_seconds(trial: Denoiser, batch_size: int, compute: Compute) -> float:
    device = next(trial.parameters()).device
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started = time.perf_counter()
    trial_batch(trial, batch_size, compute)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    seconds = time.perf_counter() - started
    trial.zero_grad(set_to_none=True)
    return seconds


def trial_batch(denoiser: Denoiser, batch_size: int, compute: Compute | None = None) -> None:
    """Run forward and backward of a made-up batch; gradients add up in the denoiser.

    Args:
        denoiser: the denoiser, on its device.
        batch_size: scans in the batch.
        compute: what to call instead of the denoiser itself, for instance its compiled form.
    """
    device = next(denoiser.parameters()).device
    shape = (batch_size, *denoiser.sample_shape)
    x = torch.linspace(-1.0, 1.0, math.prod(shape), device=device).reshape(shape)
    sigma = torch.full((batch_size,), 0.5, device=device)
    labels = torch.zeros(batch_size, dtype=torch.int64, device=device)
    (compute or denoiser)(x, sigma, labels, None).square().mean().backward()
