"""The denoiser with `torch.compile`, or uncompiled if compiling fails."""

from __future__ import annotations

import logging
from typing import Any, Protocol

import torch
from torch import Tensor

from models.diffusion.denoiser import Denoiser
from models.optim.memory import out_of_memory

logger = logging.getLogger(__name__)


class Compute(Protocol):
    """A denoiser or its compiled form."""

    def __call__(self, x: Tensor, sigma: Tensor, codes: Tensor, augment: Tensor | None = None, /) -> Tensor:
        """Estimate the clean scan, as `Denoiser.forward` does."""


class Compiled:
    """A denoiser that is compiled at its first call, and runs uncompiled if that fails.

    Attributes:
        failed: whether compiling failed.
    """

    def __init__(self, denoiser: Denoiser, *, graphs: bool) -> None:
        self._denoiser, self._graphs = denoiser, graphs
        # Shapes do not change during training. Otherwise a second batch size would compile for all sizes.
        self._call: Any = torch.compile(
            denoiser, dynamic=False, mode="reduce-overhead" if graphs else "default"
        )
        self._proven = False
        self.failed = False

    def __call__(self, *arguments: Tensor | None) -> Tensor:
        """Estimate the clean scan, as `Denoiser.forward` does."""
        if self.failed:
            return self._denoiser(*arguments)
        if self._graphs:
            # The result of the last call is no longer needed, and its memory may be overwritten.
            torch.compiler.cudagraph_mark_step_begin()
        if self._proven:
            return self._call(*arguments)
        try:
            result: Tensor = self._call(*arguments)
        except Exception as error:
            # Compiler errors have no common class: a missing C++ compiler, an unsupported operator, ...
            if out_of_memory(error):
                raise
            logger.warning(
                "torch.compile does not work here (%s); continuing without it", type(error).__name__
            )
            self.failed = True
            return self._denoiser(*arguments)
        self._proven = True
        return result


def compiled(denoiser: Denoiser, *, graphs: bool = False) -> Compiled:
    """Return a form of the denoiser that is compiled at its first call; weights are shared.

    Args:
        denoiser: the denoiser.
        graphs: replay its kernels as CUDA graphs on a CUDA device. Each call then overwrites the result and
            the gradients of the previous call.
    """
    return Compiled(denoiser, graphs=graphs)
