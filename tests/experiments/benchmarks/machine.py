"""The machine under measurement: its name, how busy it is, peaks of memory, its matrix-product ceiling."""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    pass

LARGEST_BUSY_SHARE = 0.05
IDLE = 3
CPU_SIDES = (512, 1024, 2048, 3072)
GPU_SIDES = (4096, 8192, 16384)
SECONDS_A_SIDE = 1.0

P = ParamSpec("P")
T = TypeVar("T")


def describe() -> str:
    """Return processor, cores, threads, accelerator and torch version in one line."""
    import torch

    from models.devices import default_device

    parts = [processor_name(), f"{os.cpu_count()} cores", f"{torch.get_num_threads()} threads"]
    if default_device().type == "cuda":
        parts.append(torch.cuda.get_device_name())
    return ", ".join([*parts, f"torch {torch.__version__}"])


def processor_name() -> str:
    """Return the processor's name as the system gives it."""
    path = Path("/proc/cpuinfo")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def busy_share(seconds: float = 3.0) -> float:
    """Return the share of all cores' time that others used during so many seconds (Linux; else 0).

    The load average would still tell of what ended a minute ago.
    """
    first = _core_seconds()
    time.sleep(seconds)
    last = _core_seconds()
    total = sum(last) - sum(first)
    return 1.0 - (last[IDLE] - first[IDLE]) / total if total else 0.0


def _core_seconds() -> list[int]:
    """Return the first line of /proc/stat: clock ticks of all cores by kind, idle ones at `IDLE`."""
    path = Path("/proc/stat")
    return (
        [int(ticks) for ticks in path.read_text().split("\n", 1)[0].split()[1:]]
        if path.is_file()
        else [0] * 4
    )


def in_own_process(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a module-level function in a fresh interpreter, as a user would run it, and return its result."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        return process.submit(function, *args, **kwargs).result()


def peak_bytes() -> int:
    """Return the largest resident memory that this process has had.

    On Linux from /proc: there `ru_maxrss` of a started process begins at what its parent held.
    """
    path = Path("/proc/self/status")
    if path.is_file():
        for line in path.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    unit = 1 if platform.system() == "Darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def matrix_product_rate(
    dtype_name: str, sides: Sequence[int] = (), seconds_a_side: float = SECONDS_A_SIDE
) -> float:
    """Return the best FLOP/s of a square matrix product of a type (`bfloat16`, `float32`) on the device.

    The fastest single product counts: a ceiling is what the machine can do when nothing disturbs it.

    Args:
        dtype_name: type of both factors.
        sides: sides of the matrices to try; empty chooses by the device.
        seconds_a_side: how long each side is tried.
    """
    import torch

    from models.devices import default_device, synchronise

    device, dtype = default_device(), getattr(torch, dtype_name)
    best = 0.0
    for side in sides or (GPU_SIDES if device.type == "cuda" else CPU_SIDES):
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        out = a @ b
        synchronise(device)
        until = time.perf_counter() + seconds_a_side
        while (started := time.perf_counter()) < until:
            torch.matmul(a, b, out=out)
            synchronise(device)
            best = max(best, 2.0 * side**3 / (time.perf_counter() - started))
    return best
