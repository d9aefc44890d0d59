"""What the chip can do at most: matrix products of each type, and copies within its memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from models.devices import default_device, synchronise
from tests.experiments.benchmarks.gpu.sizes import Sizes
from tests.experiments.benchmarks.machine import matrix_product_rate
from tests.experiments.benchmarks.rows import Row

COPIED = {"cuda": 2**31, "cpu": 2**24}


@dataclass(frozen=True)
class Ceilings:
    """The best of each.

    Attributes:
        bf16, fp32, tf32: FLOP/s of square matrix products; TF32 is fp32 where a chip has none.
        copy: bytes a second read and written by a copy on the device.
    """

    bf16: float
    fp32: float
    tf32: float
    copy: float

    def rows(self) -> Iterator[Row]:
        """Yield them as figures."""
        for name in ("bf16", "fp32", "tf32"):
            value = getattr(self, name) / 1e12
            yield Row(f"ceiling, {name} matrix products", (value,), None, True, "fastest product", "TFLOP/s")
        yield Row("ceiling, copy on the device", (self.copy / 1e12,), None, True, "read + written", "TB/s")


def measure_ceilings(sizes: Sizes) -> Ceilings:
    """Measure all ceilings."""
    found = {
        name: matrix_product_rate(name, sizes.ceiling_sides, sizes.ceiling_seconds)
        for name in ("bfloat16", "float32")
    }
    return Ceilings(found["bfloat16"], found["float32"], tf32_rate(sizes), _copy_rate(sizes.ceiling_seconds))


def tf32_rate(sizes: Sizes) -> float:
    """Return the rate of fp32 products that may be rounded to TF32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        return matrix_product_rate("float32", sizes.ceiling_sides, sizes.ceiling_seconds)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _copy_rate(seconds: float) -> float:
    device = default_device()
    source = torch.rand(COPIED.get(device.type, 2**28) // 4, device=device)
    target, best, until = torch.empty_like(source), 0.0, time.perf_counter() + seconds
    while (started := time.perf_counter()) < until:
        target.copy_(source)
        synchronise(device)
        best = max(best, 2 * source.nbytes / (time.perf_counter() - started))
    return best
