"""Pixels are held as they are stored, and each batch is mapped to model range: a quarter of the memory."""

from __future__ import annotations

import torch
from torch import Tensor

_TOP = {torch.uint8: 255, torch.uint16: 65535}


def in_model_range(images: Tensor) -> Tensor:
    """Return images as float32 in [-1, 1].

    Args:
        images: of any shape; uint8 or uint16, whose 0 becomes -1 and whose greatest value 1, or float32 in
            [-1, 1], which are returned as they are.
    """
    top = _TOP.get(images.dtype)
    return images if top is None else images.float() * (2.0 / top) - 1.0
