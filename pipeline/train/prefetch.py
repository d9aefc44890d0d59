"""What each training step needs from the cohort, gathered by a thread while the step before computes."""

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
"""Reads the arrays that a step needs; called in a thread of its own."""


class Draws(Protocol):
    """Tells which scans a step sees, over all processes."""

    def rows(self, step: int, /) -> Ints:
        """Return the cohort rows of a step."""


class Source(Protocol):
    """Reads what a denoiser learns from."""

    def read(self, rows: Ints, /) -> npt.NDArray[Any]:
        """Return the images of cohort rows, or the moments of their latents: (N, C, H, W)."""


class Feed:
    """Gathers the arrays of every step, one step ahead.

    Args:
        gather: reads the arrays of a step.
        device: where they are needed.
    """

    def __init__(self, gather: Gather, device: torch.device) -> None:
        self._gather, self._device = gather, device
        self._pinned = choices(device).pinned
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed", initializer=self._settle)
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

    def _settle(self) -> None:
        """Let the thread work for this process's GPU: every thread begins on the first one."""
        if self._device.type == "cuda":
            torch.cuda.set_device(self._device)

    def _read(self, step: int) -> tuple[Tensor, ...]:
        tensors = (torch.from_numpy(array) for array in self._gather(step))
        return tuple(tensor.pin_memory() if self._pinned else tensor for tensor in tensors)


def scans_of(
    batches: Draws,
    source: Source,
    conditions: CohortConditions,
    share: slice,
) -> Gather:
    """Return what gathers a process's scans.

    It holds nothing of whoever trains, which so is freed, with all it has on a GPU, once nobody needs it.

    Args:
        batches: which scans a step sees, over all processes.
        source: reads the scans, or what their latents are drawn from: (n, C, H, W).
        conditions: what the cohort tells of each scan: codes (n, F) int64.
        share: this process's places in a batch.
    """

    def gather(step: int) -> tuple[npt.NDArray[Any], ...]:
        rows = batches.rows(step)[share]
        return source.read(rows), conditions.codes(rows)

    return gather
