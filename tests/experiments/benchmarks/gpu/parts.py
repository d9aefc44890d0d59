"""The parts of the GPU proof, the most telling first, with their shares of the time."""

from __future__ import annotations

import importlib
from collections.abc import Iterator

from tests.experiments.benchmarks.gpu.job import Job, Part
from tests.experiments.benchmarks.rows import Row, Skipped


def _part(module: str, title: str, share: float) -> Part:
    def run(job: Job) -> Iterator[Row | Skipped]:
        # Libraries are imported by the process of the part that needs them.
        part: Iterator[Row | Skipped] = importlib.import_module(
            f"tests.experiments.benchmarks.gpu.{module}"
        ).run(job)
        yield from part

    return Part(module, title, share, run)


PARTS = (
    _part("smoke", "Tests that need a GPU", 0.05),
    _part("training", "Training", 0.40),
    _part("equality", "Equality", 0.10),
    _part("sampling", "Sampling", 0.07),
    _part("search", "The gate's search", 0.05),
    _part("phantom", "Phantom run to a gated release", 0.24),
    _part("latent", "Latent diffusion", 0.05),
    _part("joined", "torchrun", 0.04),
)
