"""What is computed in another way on each kind of device: one table, and the few calls that differ."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import platform
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class DeviceChoices:
    """How one kind of device is computed on.

    What is chosen for `cuda` is measured, choice by choice, by
    ``python -m tests.experiments.benchmarks.gpu``.

    Attributes:
        arithmetic: (type, whether channels-last) that the precision probe tries, the preferred first. A GPU
            convolves in channels-last order and transposes what lies otherwise; a CPU does not care.
        probe_batch: scans of a batch of that probe; None is a whole batch of the training. A CPU is as fast a
            scan with 32 as with 128; a GPU that 32 scans do not fill finds everything equally fast.
        compiles: whether ``train.compile=auto`` tries ``torch.compile``. It fuses what is limited by memory
            bandwidth; on a CPU it saved less than compiling took.
        graphs: whether a compiled step may be replayed as a CUDA graph, where launching its kernels one by
            one takes longer than they run.
        fused_attention: whether attention is one kernel that never writes its weights to memory. On a CPU it
            is slower (at 32x32 174 training images a second against 216, AMD EPYC with AVX-512 bf16).
        deterministic: whether torch is told to take kernels that give the same bits each time. CPU kernels
            do at a fixed number of threads; some of a GPU's add up in the order in which they finish.
        pinned: whether scans are copied from page-locked memory, which the host need not wait for.
        keeps_heap: whether the C library is told to keep freed memory (`held_memory`). Tensors on a GPU come
            from torch's own allocator, which keeps it anyway.
        wide: the widest type of floating-point number.
        entries_at_once: entries of a large product that are made before they are used. A processor takes as
            long to fetch products from memory as to make them, so they should fit in its cache; an
            accelerator is best at large ones.
    """

    arithmetic: tuple[tuple[str, bool], ...]
    probe_batch: int | None
    compiles: bool
    graphs: bool
    fused_attention: bool
    deterministic: bool
    pinned: bool
    keeps_heap: bool
    wide: torch.dtype
    entries_at_once: int


_CPU = DeviceChoices(
    arithmetic=(("bf16", False), ("bf16", True), ("fp32", True), ("fp32", False)),
    probe_batch=32,
    compiles=False,
    graphs=False,
    fused_attention=False,
    deterministic=False,
    pinned=False,
    keeps_heap=True,
    wide=torch.float64,
    entries_at_once=2**18,
)
_CUDA = DeviceChoices(
    arithmetic=(("bf16", True), ("bf16", False), ("fp32", True), ("fp32", False)),
    probe_batch=None,
    compiles=True,
    graphs=True,
    fused_attention=True,
    deterministic=True,
    pinned=True,
    keeps_heap=False,
    wide=torch.float64,
    entries_at_once=2**25,
)
_MPS = DeviceChoices(
    arithmetic=(("bf16", False), ("fp32", False)),
    probe_batch=None,
    compiles=False,
    graphs=False,
    fused_attention=True,
    deterministic=False,
    pinned=False,
    keeps_heap=False,
    wide=torch.float32,
    entries_at_once=2**25,
)
_CHOICES = {"cpu": _CPU, "cuda": _CUDA, "mps": _MPS}


def choices(device: torch.device | str) -> DeviceChoices:
    """Return how a device is computed on; one of a kind that the table lacks as an NVIDIA GPU is not."""
    return _CHOICES.get(torch.device(device).type, _MPS)


def default_device() -> torch.device:
    """Return the accelerator if there is one (CUDA, then Apple's MPS), else the CPU.

    A CUDA device is returned with its number: a thread of its own would take the first one otherwise,
    whichever this process computes on.
    """
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def arithmetic_of(device: torch.device) -> tuple[tuple[str, bool], ...]:
    """Return the (type, whether channels-last) worth trying on a device, the preferred first."""
    tried = choices(device).arithmetic
    known = device.type != "cpu" or platform.machine() in ("x86_64", "AMD64")
    if has_bf16(device) or not known:
        return tried
    return tuple(choice for choice in tried if choice[0] != "bf16")


@functools.cache
def has_bf16(device: torch.device) -> bool:
    """Whether a device is known to compute in bfloat16 by itself; what imitates it is many times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "mps":
        try:
            torch.ones(2, 2, dtype=torch.bfloat16, device=device).mm(torch.ones(2, 2).to(device).bfloat16())
        except (RuntimeError, TypeError):
            logger.info("this system's mps has no bf16 (macOS 14 brought it): computing in fp32")
            return False
        return True
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    # ATEN_CPU_CAPABILITY may keep torch from what the processor has.
    return "AVX512" in torch.backends.cpu.get_cpu_capability() and bool(supported and supported())


@contextlib.contextmanager
def computing(device: torch.device) -> Iterator[None]:
    """Compute on a device alike every time: what a stage does there goes inside this block.

    On CUDA, kernels are deterministic and chosen by rule, never by timing; then a run that was killed and
    went on ends in the same bits. Products of fp32 numbers are fp32 products, not TF32 ones of 10 bits: where
    that is too slow there is bf16, and what is called fp32 can be compared across devices. Elsewhere nothing
    needs to be said.
    """
    if not choices(device).deterministic:
        yield
        return
    # cuBLAS reads it when its first product is made; without a workspace of its own it may differ by bits.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    flags = [(owner, name, _flag(owner, name)) for owner, name, _ in _FLAGS]
    try:
        # It also keeps torch.compile from choosing between kernels by how long they took.
        torch.use_deterministic_algorithms(True, warn_only=True)
        _set_flags(_FLAGS)
        with warnings.catch_warnings():
            # Said by the few kernels that have no such form; none of them is in a denoiser's training.
            warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation")
            yield
    finally:
        _set_flags(flags)
        torch.use_deterministic_algorithms(deterministic, warn_only=warns)


# `torch.backends.cudnn.flags` would set these too, but turns cuDNN off unless told not to. TF32 is set by its
# older switches, which set the newer ones along; mixed, torch refuses to say which holds.
_FLAGS: list[tuple[Any, str, bool]] = [
    (torch.backends.cudnn, "benchmark", False),
    (torch.backends.cudnn, "allow_tf32", False),
    (torch.backends.cuda.matmul, "allow_tf32", False),
    (torch.utils.deterministic, "fill_uninitialized_memory", False),
]


def _flag(owner: Any, name: str) -> bool:
    with warnings.catch_warnings(), contextlib.suppress(RuntimeError):
        warnings.filterwarnings("ignore", message="Please use the new API settings")
        return bool(getattr(owner, name))
    # Set by the newer switches alone, which say more than yes or no.
    return False


def _set_flags(flags: list[tuple[Any, str, bool]]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Please use the new API settings")
        for owner, name, value in flags:
            setattr(owner, name, value)


def synchronise(device: torch.device) -> None:
    """Wait until an accelerator has done what it was asked to."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def release_memory(device: torch.device) -> None:
    """Give memory that torch keeps for later back to an accelerator."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Bring a tensor to a device without waiting for what the device still has to do."""
    if choices(device).pinned and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
