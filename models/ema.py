"""Exponential moving average (EMA) of the denoiser's weights, with a warm-up ramp."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

ModelT = TypeVar("ModelT", bound=nn.Module)


class ExponentialMovingAverage(Generic[ModelT]):
    """An average of the weights along training whose memory is given as a half-life in images.

    Early on, the half-life is held to ``ramp_share`` of the images seen so far (Karras et al. 2022,
    arXiv 2206.00364, appendix F.2), so that the random initial weights are forgotten quickly.

    Args:
        model: the model being trained; a copy of it holds the average.
        half_life: images after which a weight's share in the average has halved; 0 copies the model.
        ramp_share: upper limit of the half-life as a share of the images seen; None for no ramp.

    Raises:
        ValueError: ``half_life`` is negative or ``ramp_share`` is not positive.
    """

    def __init__(self, model: ModelT, *, half_life: float, ramp_share: float | None = 0.05) -> None:
        if not half_life >= 0.0:
            raise ValueError(f"half_life must not be negative, got {half_life!r}")
        if ramp_share is not None and not ramp_share > 0.0:
            raise ValueError(f"ramp_share must be positive or None, got {ramp_share!r}")
        self.half_life = float(half_life)
        self.ramp_share = ramp_share
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._source: list[Tensor] = list(model.parameters())
        self._average: list[Tensor] = list(self.model.parameters())
        self._source_buffers = list(model.buffers())
        self._average_buffers = list(self.model.buffers())

    def decay(self, images_seen: int, batch_size: int) -> float:
        """The share of the old average that one update keeps, in [0, 1).

        Args:
            images_seen: images seen before this batch.
            batch_size: images of this batch.
        """
        half_life = self.half_life
        if self.ramp_share is not None:
            half_life = min(half_life, self.ramp_share * images_seen)
        return 0.0 if half_life <= 0.0 else float(0.5 ** (batch_size / half_life))

    @torch.no_grad()
    def update(self, images_seen: int, batch_size: int) -> None:
        """Take the model's present weights into the average; buffers are copied, not averaged."""
        weight = 1.0 - self.decay(images_seen, batch_size)
        torch._foreach_lerp_(self._average, self._source, weight)
        for average, source in zip(self._average_buffers, self._source_buffers, strict=True):
            average.copy_(source)
