"""Selects the fastest arithmetic for training on this machine: a short probe of dtype, layout, compiling."""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple, TypeVar

import torch
from torch import nn

from models.devices import arithmetic_of, choices, release_memory, synchronise
from models.diffusion.denoiser import Denoiser
from models.optim.compiling import Compute, compiled
from models.optim.memory import out_of_memory

logger = logging.getLogger(__name__)

DTYPES: dict[str, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}
"""Name -> dtype of the network's weights and activations."""

PREFERENCE_MARGIN = 1.10
"""Speed-up that a less preferred choice needs to be selected."""
SHORT_TRAINING = 120.0
"""Seconds of training below which compiling is not tried, because trying it takes about as long."""
CLEARLY_SLOWER = 2.0
"""Slow-down relative to the fastest choice at which the probe drops a choice."""
LAUNCH_BOUND = 0.9
"""Share of launching kernels in the time of a batch from which on a CUDA graph is tried."""

_SINGLE_ROUNDS = 3
_GRAPH_WARM_UP = 3
"""Calls before a graph is replayed: the first ones compile, warm up and record."""

ModelT = TypeVar("ModelT", bound=nn.Module)


@dataclass(frozen=True)
class Precision:
    """The selected arithmetic, recorded in the checkpoint and reused on resume.

    Attributes:
        dtype: ``fp32`` or ``bf16`` of the computing network; the trained and saved weights are fp32.
        channels_last: whether convolution weights are in channels-last memory layout.
        measured: choice -> training images per second in the probe; empty if nothing was probed.
        compiled: whether the network runs through `torch.compile`.
        graphs: whether its compiled form is replayed as CUDA graphs.
    """

    dtype: str
    channels_last: bool
    measured: dict[str, float] = field(default_factory=dict)
    compiled: bool = False
    graphs: bool = False

    def __post_init__(self) -> None:
        if self.dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {sorted(DTYPES)}, got {self.dtype!r}")

    @property
    def name(self) -> str:
        """The choice in words, for example ``bf16 channels-last``."""
        words = [
            self.dtype,
            "channels-last" if self.channels_last else "",
            "compiled" if self.compiled else "",
            "graphs" if self.graphs else "",
        ]
        return " ".join(word for word in words if word)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-serialisable values."""
        return asdict(self)


def precisions_of(device: torch.device) -> tuple[Precision, ...]:
    """Return the choices that a probe tries on a device, in order of preference."""
    return tuple(Precision(dtype, channels_last) for dtype, channels_last in arithmetic_of(device))


def apply_precision(model: ModelT, precision: Precision) -> ModelT:
    """Set layout and dtype of a denoiser or autoencoder in place and return it; bf16 rounds its weights.

    Only ``network`` is converted: noise levels, preconditioning, scaling and the result stay fp32. On devices
    with fused attention, bf16 networks use it; in fp32 its backward pass is not deterministic.
    """
    layout = torch.channels_last if precision.channels_last else torch.contiguous_format
    model.network.to(DTYPES[precision.dtype])
    for parameter in model.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=layout)
    fused = precision.dtype == "bf16" and choices(next(model.parameters()).device).fused_attention
    for module in model.modules():
        if hasattr(module, "use_flash_attention"):
            module.use_flash_attention = fused  # type: ignore[assignment]  # of MONAI's attention
    return model


def probe_precision(
    denoiser: Denoiser, *, batch_size: int, tried: Sequence[Precision] = (), num_rounds: int = 5
) -> Precision:
    """Time forward and backward passes of a few batches with each choice; the denoiser is not changed.

    The choices take turns in rounds, and the fastest batch of each counts. Another program that uses the
    cores for a moment then slows all choices or none. The first rounds have one scan, and a clearly slower
    choice is dropped from the next rounds, because an emulated dtype may take half a minute per batch. A
    batch that does not fit in memory is halved.

    Args:
        denoiser: the denoiser to train, on its device.
        batch_size: scans per batch of the probe.
        tried: choices in order of preference; empty selects those of the device.
        num_rounds: timed batches of each choice, after one untimed batch of each.

    Returns:
        The selected choice, with all measured rates. A less preferred choice is selected only if it is faster
        by 10 %, so that the noise of a short measurement does not decide between nearly equal choices.
    """
    device = next(denoiser.parameters()).device
    tried = tried or precisions_of(device)
    trials = [apply_precision(copy.deepcopy(denoiser), choice).train() for choice in tried]
    while True:
        try:
            measured = _rates(tried, trials, batch_size, num_rounds)
            break
        except (RuntimeError, MemoryError) as error:
            if batch_size == 1 or not out_of_memory(error):
                raise
        batch_size //= 2
        release_memory(device)
    best = tried[0]
    for choice in tried[1:]:
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
    """Decide whether `torch.compile` pays: compares the time saved on the remaining images with compile time.

    If launching the compiled kernels takes as long as running them, replaying them as CUDA graphs is tried
    too, and selected if it is clearly faster.

    Args:
        denoiser: the denoiser to train, on its device; not changed.
        precision: arithmetic of the training.
        batch_size: scans per forward pass of the training.
        images_left: number of images that training will still process on this device.
        seconds_left: remaining training time, if it is limited.
        must: compile if it works at all, whether or not it pays.

    Returns:
        ``precision`` with ``compiled`` and the measured rates. A network that does not compile here stays
        uncompiled, with a warning.
    """
    expected = images_left / precision.measured.get(precision.name, math.inf)
    left = min([expected or math.inf, *([seconds_left] if seconds_left is not None else [])])
    if left < SHORT_TRAINING and not must:
        return precision
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
    eager, fast = (_fastest(trial, batch_size, call) for call in (trial, compute))
    measured = {precision.name: eager, faster.name: fast}
    if graphs_fit(precision, trial) and fast.launch > LAUNCH_BOUND * fast.whole:
        replayed = replace(faster, graphs=True)
        measured[replayed.name] = _graph_seconds(trial, batch_size)
        if PREFERENCE_MARGIN * measured[replayed.name].whole < fast.whole:
            faster, fast = replayed, measured[replayed.name]
    rates = {name: round(batch_size / seconds.whole, 1) for name, seconds in measured.items()}
    eager_seconds = eager.whole / batch_size * images_left
    if seconds_left is not None:
        eager_seconds = min(eager_seconds, seconds_left)
    saved = (1.0 - fast.whole / eager.whole) * eager_seconds
    pays = must or saved > compile_seconds
    logger.info(
        "compiling took %.1f s and would save %.0f s: %s",
        compile_seconds,
        saved,
        "used" if pays else "not used",
    )
    return replace(
        precision,
        compiled=pays,
        graphs=pays and faster.graphs,
        measured={**precision.measured, **rates},
    )


def graphs_fit(precision: Precision, denoiser: Denoiser) -> bool:
    """Return whether a denoiser's steps may be replayed as CUDA graphs.

    A graph writes to the same memory in each replay, including gradients. The gradients of the bf16 copy are
    added to those of the fp32 master before the next replay. In fp32 both are the same tensors, and a
    gradient summed over parts of a batch would be overwritten.
    """
    return precision.dtype == "bf16" and choices(next(denoiser.parameters()).device).graphs


def _graph_seconds(trial: Denoiser, batch_size: int) -> _Seconds:
    """Time the denoiser replayed as CUDA graphs; infinite if this is not possible."""
    never = _Seconds(math.inf, math.inf)
    compute = compiled(trial, graphs=True)
    try:
        for _ in range(_GRAPH_WARM_UP):
            _batch_seconds(trial, batch_size, compute)
        return never if compute.failed else _fastest(trial, batch_size, compute)
    except (RuntimeError, MemoryError) as error:
        if not out_of_memory(error):
            raise
        return never


def _rates(
    tried: Sequence[Precision], trials: Sequence[Denoiser], batch_size: int, num_rounds: int
) -> dict[str, float]:
    rates = [0.0] * len(trials)
    left = list(range(len(trials)))
    for size, rounds in ((1, _SINGLE_ROUNDS), (batch_size, num_rounds)):
        rates = [0.0 if position in left else rate for position, rate in enumerate(rates)]
        # The first round of a size creates its kernels; two more distinguish a slow choice from a busy
        # machine.
        for turn in range(rounds + 1):
            for position in left:
                seconds = _batch_seconds(trials[position], size, trials[position]).whole
                if turn:
                    rates[position] = max(rates[position], size / seconds)
            if turn >= 2:
                left = [position for position in left if CLEARLY_SLOWER * rates[position] >= max(rates)]
    return {choice.name: round(rate, 1) for choice, rate in zip(tried, rates, strict=True)}


class _Seconds(NamedTuple):
    """Time of a batch: until its last kernel was launched, and until all kernels finished."""

    launch: float
    whole: float


def _batch_seconds(trial: Denoiser, batch_size: int, compute: Compute) -> _Seconds:
    device = next(trial.parameters()).device
    synchronise(device)
    started = time.perf_counter()
    trial_batch(trial, batch_size, compute)
    launched = time.perf_counter()
    synchronise(device)
    ended = time.perf_counter()
    trial.zero_grad(set_to_none=True)
    return _Seconds(launched - started, ended - started)


def _fastest(trial: Denoiser, batch_size: int, compute: Compute) -> _Seconds:
    """Return the fastest of a few batches."""
    return min((_batch_seconds(trial, batch_size, compute) for _ in range(5)), key=lambda one: one.whole)


def trial_batch(denoiser: Denoiser, batch_size: int, compute: Compute | None = None) -> None:
    """Run forward and backward passes of a synthetic batch; gradients accumulate in the denoiser.

    Args:
        denoiser: the denoiser, on its device.
        batch_size: scans in the batch.
        compute: callable to use instead of the denoiser, for example its compiled form.
    """
    device = next(denoiser.parameters()).device
    shape = (batch_size, *denoiser.sample_shape)
    x = torch.linspace(-1.0, 1.0, math.prod(shape), device=device).reshape(shape)
    sigma = torch.full((batch_size,), 0.5, device=device)
    codes = torch.zeros(batch_size, len(denoiser.spec.num_values), dtype=torch.int64, device=device)
    (compute or denoiser)(x, sigma, codes, None).square().mean().backward()
