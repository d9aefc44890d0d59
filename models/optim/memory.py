"""Recognises out-of-memory errors, and finds the largest batch that fits."""

from __future__ import annotations

from collections.abc import Callable

import torch

from models.devices import default_device, release_memory

# Messages of failed allocations of torch, the C++ library and oneDNN.
_WORDS = (
    "DefaultCPUAllocator",
    "not enough memory",
    "can't allocate memory",
    "bad_alloc",
    "CUDA out of memory",
    "MPS backend out of memory",
)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error is an out-of-memory error."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def largest_that_fits(attempt: Callable[[int], None], size: int) -> int:
    """Halve a size until the attempt does not run out of memory.

    Args:
        attempt: does the work of one size; called once per halving.
        size: the size that did not fit.

    Returns:
        The first half, quarter, ... that fitted, or 0 if not even 1 did.
    """
    while size > 1:
        size //= 2
        release_memory(default_device())
        try:
            attempt(size)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
            continue
        return size
    return 0
