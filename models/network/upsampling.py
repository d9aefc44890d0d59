"""Upsampling and convolution as one layer: the most expensive layer of the network at half the arithmetic."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def fuse_upsampling(network: nn.Module) -> int:
    """Replace MONAI's nearest-neighbour upsampling and 3x3 convolution by one transposed convolution.

    The network keeps its parameters, their names and, up to rounding, its function.

    Args:
        network: a MONAI ``DiffusionModelUNet`` or ``AutoencoderKL``; modified in place.

    Returns:
        The number of layers replaced.
    """
    from monai.networks.blocks.upsample import UpSample

    found = [
        (parent, name, child)
        for parent in network.modules()
        for name, child in parent.named_children()
        if isinstance(child, UpSample) and _doubles_then_convolves(child)
    ]
    for parent, name, child in found:
        setattr(parent, name, UpsampleConvolution(child.postconv))
    return len(found)


class UpsampleConvolution(nn.Module):
    """Nearest-neighbour upsampling by 2 and a 3x3 convolution with padding 1, as one transposed convolution.

    Upsampling repeats every pixel 2x2, so the kernel meets each value up to twice per row and column. Summing
    these taps gives a 4x4 kernel with stride 2 that meets each value once. This needs 4 instead of 9 products
    per output value and does not create the upsampled image.

    Args:
        postconv: MONAI's ``Convolution`` with the 3x3 ``conv``; its parameters keep their names.

    Attributes:
        fused: if False, upsampling and convolution run one after the other, for hooks that need ``postconv``
            to be called.
    """

    def __init__(self, postconv: Any) -> None:
        super().__init__()
        self.postconv = postconv
        self.fused = True

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        """Map (N, C, H, W) to (N, C', 2H, 2W). ``emb`` is part of MONAI's interface and not used."""
        if not self.fused:
            doubled: Tensor = self.postconv(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
            return doubled
        conv = self.postconv.conv
        kernel = _spread(_spread(conv.weight, 2), 3).transpose(0, 1)
        return functional.conv_transpose2d(x, kernel, conv.bias, stride=2, padding=1)


def _spread(weight: Tensor, axis: int) -> Tensor:
    """Convert three taps over the upsampled image to four taps over the image, along one axis."""
    before, centre, after = weight.unbind(axis)
    return torch.stack([after, centre + after, before + centre, before], axis)


def _doubles_then_convolves(layer: Any) -> bool:
    names = [name for name, _ in layer.named_children()]
    if names != ["upsample_non_trainable", "postconv"]:
        return False
    upsample, conv = layer.upsample_non_trainable, layer.postconv.conv
    return (
        isinstance(conv, nn.Conv2d)
        and upsample.mode == "nearest"
        and tuple(upsample.scale_factor) == (2.0, 2.0)
        and (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
        and (conv.dilation, conv.groups) == ((1, 1), 1)
    )
