"""Small tensors that follow from sizes and settings alone: made once on the CPU, and kept on each device."""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from models.devices import to_device

Make = Callable[..., Tensor]


def kept_for(images: Tensor, make: Make, *sizes: float) -> Tensor:
    """Return what `make` returns for these sizes, of the images' type and on their device.

    It is kept, and not to be changed. What the CPU makes has the same bits whichever device uses it. Copied
    anew in each step of a search, it would let the host wait for the device as often.
    """
    return _kept(make, sizes, images.device, images.dtype)


@functools.lru_cache(maxsize=1024)
def _kept(make: Make, sizes: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    # Made first in a search, which takes no gradients, it is used in training too.
    with torch.inference_mode(mode=False):
        return to_device(make(*sizes).to(dtype), device)
