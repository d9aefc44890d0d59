"""The scans of each step, gathered by a thread while the step before computes."""

from __future__ import annotations

import dataclasses
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from pipeline.conditions import CohortConditions
from pipeline.errors import DataError
from pipeline.train.batches import Batch, BatchPlan
from pipeline.train.patients import PatientDraw

if TYPE_CHECKING:
    from pipeline.train.latents import LatentSource, PixelSource

LIMIT = 1.0 + 1e-3
"""Largest magnitude of a pixel in model range, and room for rounding."""


class Feed:
    """Reads a process's part of every batch from the memory-mapped cohort, one step ahead.

    Args:
        plan: which scans a step sees, over all processes.
        source: reads the scans, or what their latents are drawn from.
        conditions: what the cohort tells of each scan.
        share: this process's places in a batch.
        device: where the scans are needed; a GPU is fed from pinned memory.
    """

    def __init__(
        self,
        plan: BatchPlan | PatientDraw,
        source: PixelSource | LatentSource,
        conditions: CohortConditions,
        share: slice,
        device: torch.device,
    ) -> None:
        self._plan, self._source, self._conditions = plan, source, conditions
        self._share, self._device = share, device
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._ahead: tuple[int, Future[tuple[Tensor, Tensor]]] | None = None

    def take(self, step: int) -> tuple[Tensor, Tensor]:
        """Return this process's data (n, C, H, W) and condition codes (n, F) int64 of `step`, on the device.

        Raises:
            DataError: an image holds values that are not finite or lie outside [-1, 1].
        """
        if self._ahead is None or self._ahead[0] != step:
            self._ahead = (step, self._thread.submit(self._gather, step))
        data, codes = self._ahead[1].result()
        self._ahead = (step + 1, self._thread.submit(self._gather, step + 1))
        return data.to(self._device, non_blocking=True), codes.to(self._device, non_blocking=True)

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _gather(self, step: int) -> tuple[Tensor, Tensor]:
        batch = part_of(self._plan.batch(step), self._share)
        data, codes = self._source.read(batch), self._conditions.codes(batch.rows)
        tensors = torch.from_numpy(data), torch.from_numpy(codes)
        if self._device.type == "cuda":
            return tensors[0].pin_memory(), tensors[1].pin_memory()
        return tensors


def part_of(batch: Batch, share: slice) -> Batch:
    """Return the part of a batch that stands at the places `share`."""
    return dataclasses.replace(
        batch, **{field.name: getattr(batch, field.name)[share] for field in dataclasses.fields(batch)}
    )


def require_usable(images: npt.NDArray[np.float32]) -> None:
    """Refuse images that no training could learn from.

    Raises:
        DataError: a value is not finite, or lies outside [-1, 1].
    """
    # NaN compares false with everything.
    if images.size == 0 or (images.min() >= -LIMIT and images.max() <= LIMIT):
        return
    finite = bool(np.isfinite(images).all())
    raise DataError(
        "an image holds values outside [-1, 1]" if finite else "an image holds values that are not finite",
        field="cohort",
        remedy="Ingest again.",
    )
