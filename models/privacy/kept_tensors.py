"""Cache of small tensors that depend on sizes and settings alone, computed on the CPU for every device."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from models.devices import to_device

Make = Callable[..., Tensor]


def kept_for(images: Tensor, make: Make, *sizes: float) -> Tensor:
    """Return the cached result of `make(*sizes)`, with the images' dtype and on their device.

    The result must not be modified. It is computed on the CPU, so it has the same bits on every device.
    Without the cache, the copy in each step of a search would make the host wait for the device.
    """
    return _kept(make, sizes, images.device, images.dtype)


@functools.lru_cache(maxsize=1024)
def _kept(make: Make, sizes: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    # A tensor that is first computed in a search, without gradients, is used in training too.
    with torch.inference_mode(mode=False):
        return to_device(make(*sizes).to(dtype), device)
