"""Differences between kinds of devices: one table of choices, and the few calls that differ."""

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
    """Computing choices for one kind of device.

    The choices for `cuda` are measured one by one by ``python -m tests.experiments.benchmarks.gpu``.

    Attributes:
        arithmetic: (dtype, whether channels-last) pairs that the precision probe tries, in order of
            preference. A GPU convolves in channels-last layout and transposes other layouts; a CPU is
            indifferent.
        probe_batch: batch size of that probe; None is a full training batch. A CPU has the same speed per
            scan with 32 as with 128 scans. A GPU that 32 scans do not fill shows no difference between
            choices.
        compiles: whether ``train.compile=auto`` tries ``torch.compile``. It fuses operations that are limited
            by memory bandwidth. On a CPU it saved less time than compiling took.
        graphs: whether a compiled step may be replayed as a CUDA graph if launching its kernels one by one
            takes longer than running them.
        fused_attention: whether attention is one kernel that does not write its weights to memory. On a CPU
            this is slower (at 32x32: 174 instead of 216 training images per second, AMD EPYC with AVX-512
            bf16).
        deterministic: whether torch is set to use deterministic kernels. CPU kernels are deterministic for a
            fixed number of threads; some GPU kernels sum in the order in which threads finish.
        pinned: whether scans are copied from page-locked memory, so that the host does not have to wait.
        keeps_heap: whether the C library is set to keep freed memory (`held_memory`). On a GPU, torch's own
            allocator keeps it anyway.
        wide: widest floating-point dtype.
        entries_at_once: entries of a large product that are computed before they are used. Reading a product
            from memory takes a CPU as long as computing it, so these should fit in its cache. An accelerator
            is fastest with large products.
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
    """Return the choices for a device; kinds that are not in the table get those of Apple's MPS."""
    return _CHOICES.get(torch.device(device).type, _MPS)


def default_device() -> torch.device:
    """Return the accelerator if there is one (CUDA, then Apple's MPS), else the CPU.

    A CUDA device is returned with its index. Otherwise a new thread would use the first device, whichever
    this process uses.
    """
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def arithmetic_of(device: torch.device) -> tuple[tuple[str, bool], ...]:
    """Return the (dtype, whether channels-last) pairs worth trying on a device, in order of preference."""
    tried = choices(device).arithmetic
    known = device.type != "cpu" or platform.machine() in ("x86_64", "AMD64")
    if has_bf16(device) or not known:
        return tried
    return tuple(choice for choice in tried if choice[0] != "bf16")


@functools.cache
def has_bf16(device: torch.device) -> bool:
    """Return whether a device is known to support bfloat16 natively; emulation is many times slower."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device.type == "mps":
        try:
            torch.ones(2, 2, dtype=torch.bfloat16, device=device).mm(torch.ones(2, 2).to(device).bfloat16())
        except (RuntimeError, TypeError):
            logger.info("mps on this system does not support bf16 (needs macOS 14): computing in fp32")
            return False
        return True
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    # ATEN_CPU_CAPABILITY may restrict what torch uses of the CPU.
    return "AVX512" in torch.backends.cpu.get_cpu_capability() and bool(supported and supported())


@contextlib.contextmanager
def computing(device: torch.device) -> Iterator[None]:
    """Make the computations of a stage on a device reproducible within this block.

    On CUDA, kernels are deterministic and selected by rule, not by timing. A run that was interrupted and
    resumed therefore ends with the same bits. Products of fp32 numbers are fp32 products, not TF32 products
    with 10 bits: fp32 is comparable across devices, and bf16 is available for speed. Other devices need no
    settings.
    """
    if not choices(device).deterministic:
        yield
        return
    # cuBLAS reads this at its first product; without a fixed workspace its results may differ by bits.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    deterministic = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    flags = [(owner, name, _flag(owner, name)) for owner, name, _ in _FLAGS]
    try:
        # This also keeps torch.compile from selecting kernels by timing.
        torch.use_deterministic_algorithms(True, warn_only=True)
        _set_flags(_FLAGS)
        with warnings.catch_warnings():
            # Warned by the few kernels without a deterministic form; a denoiser's training uses none of them.
            warnings.filterwarnings("ignore", message=".*does not have a deterministic implementation")
            yield
    finally:
        _set_flags(flags)
        torch.use_deterministic_algorithms(deterministic, warn_only=warns)


# `torch.backends.cudnn.flags` would set these too, but disables cuDNN by default. TF32 is set by the older
# flags, which also set the newer ones; torch refuses to report the state if both are mixed.
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
    # Set by the newer flags alone, which have more values than true and false.
    return False


def _set_flags(flags: list[tuple[Any, str, bool]]) -> None:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Please use the new API settings")
        for owner, name, value in flags:
            setattr(owner, name, value)


def synchronise(device: torch.device) -> None:
    """Wait until an accelerator has finished all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def release_memory(device: torch.device) -> None:
    """Return memory cached by torch to an accelerator."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to a device without waiting for the queued work of the device."""
    if choices(device).pinned and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
