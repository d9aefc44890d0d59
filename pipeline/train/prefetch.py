"""Reads the data of each training step in a thread while the step before is computed."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy.typing as npt
import torch
from torch import Tensor

from models.devices import choices
from pipeline.arrays import Ints
from pipeline.artifacts.conditions import CohortConditions

Gather = Callable[[int], tuple[npt.NDArray[Any], ...]]
"""Reads the arrays of a step; called in a separate thread."""


class Draws(Protocol):
    """Selects the scans of each step, over all processes."""

    def rows(self, step: int, /) -> Ints:
        """Return the cohort rows of a step."""


class Source(Protocol):
    """Reads the training data of a denoiser."""

    def read(self, rows: Ints, /) -> npt.NDArray[Any]:
        """Return the images of cohort rows, or the moments of their latents: (N, C, H, W)."""


class Feed:
    """Reads the arrays of every step, one step ahead.

    Args:
        gather: reads the arrays of a step.
        device: device of the returned tensors.
    """

    def __init__(self, gather: Gather, device: torch.device) -> None:
        self._gather, self._device = gather, device
        self._pinned = choices(device).pinned
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed", initializer=self._select_device)
        self._ahead: tuple[int, Future[tuple[Tensor, ...]]] | None = None

    def take(self, step: int) -> tuple[Tensor, ...]:
        """Return the arrays of `step` as tensors on the device.

        Raises:
            DataError: an image holds values that are not finite or lie outside [-1, 1].
        """
        if self._ahead is None or self._ahead[0] != step:
            self._ahead = (step, self._thread.submit(self._read, step))
        tensors = self._ahead[1].result()
        self._ahead = (step + 1, self._thread.submit(self._read, step + 1))
        return tuple(tensor.to(self._device, non_blocking=True) for tensor in tensors)

    def close(self) -> None:
        """Stop the thread."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _select_device(self) -> None:
        """Select this process's GPU in the thread; every thread starts with the first GPU."""
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)

    def _read(self, step: int) -> tuple[Tensor, ...]:
        tensors = (torch.from_numpy(array) for array in self._gather(step))
        return tuple(tensor.pin_memory() if self._pinned else tensor for tensor in tensors)


def scans_of(batches: Draws, source: Source, conditions: CohortConditions, share: slice) -> Gather:
    """Return a function that reads this process's scans of a step: images or moments, and condition codes.

    The function does not refer to the trainer, so the thread does not keep the trainer's GPU memory in use.

    Args:
        batches: selects the scans of a step, over all processes.
        source: reads the images, or the moments of their latents: (n, C, H, W).
        conditions: conditions of each scan: codes (n, F) int64.
        share: this process's positions in a batch.
    """

    def gather(step: int) -> tuple[npt.NDArray[Any], ...]:
        rows = batches.rows(step)[share]
        return source.read(rows), conditions.codes(rows)

    return gather
