"""Telling an allocation that failed from other errors, and finding the batch that fits."""

from __future__ import annotations

from collections.abc import Callable

import torch

from models.devices import default_device, release_memory

# How the allocators of torch, the C++ library and oneDNN word a refused allocation.
_WORDS = (
    "DefaultCPUAllocator",
    "not enough memory",
    "can't allocate memory",
    "bad_alloc",
    "CUDA out of memory",
    "MPS backend out of memory",
)


def out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory could not be had."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _WORDS)


def largest_that_fits(attempt: Callable[[int], None], size: int) -> int:
    """Try halves of a size until one is done without running out of memory.

    Args:
        attempt: does the work of one size; it is tried at most once a halving.
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
