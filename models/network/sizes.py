"""Network layers by image size and budget, so that a recipe names a size instead of layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

NetworkSize = Literal["small", "medium", "large"]


@dataclass(frozen=True)
class _Layers:
    """Layers for images up to a size; the fields are those of `NetworkSpec`."""

    patch_size: int
    channels: tuple[int, ...]
    attention: tuple[bool, ...]
    num_res_blocks: int


# Largest side -> layers. Attention is used on at most 16x16 positions: above, it costs more than the
# convolutions around it. `small` is for CPUs (a few million parameters, patches where possible: wide layers
# on few positions come closest to the machine's peak), `medium` for one GPU, `large` for several.
_SIZES: dict[str, dict[int, _Layers]] = {
    "small": {
        32: _Layers(2, (64, 128), (False, True), 1),
        64: _Layers(2, (64, 128, 128), (False, False, True), 1),
        128: _Layers(4, (64, 128, 128), (False, False, True), 1),
        256: _Layers(4, (32, 64, 128, 128), (False, False, False, True), 1),
        4096: _Layers(8, (64, 96, 128, 128), (False, False, False, True), 1),
    },
    "medium": {
        32: _Layers(1, (128, 256, 256), (False, True, True), 2),
        64: _Layers(1, (128, 128, 256, 256), (False, False, True, True), 2),
        128: _Layers(2, (128, 128, 256, 256), (False, False, True, True), 2),
        256: _Layers(4, (128, 128, 256, 256), (False, False, True, True), 2),
        4096: _Layers(8, (128, 128, 256, 256), (False, False, True, True), 2),
    },
    "large": {
        32: _Layers(1, (256, 384, 384), (False, True, True), 3),
        64: _Layers(1, (192, 256, 384, 512), (False, False, True, True), 3),
        128: _Layers(2, (192, 256, 384, 512), (False, False, True, True), 3),
        256: _Layers(2, (128, 192, 256, 384, 512), (False, False, False, True, True), 3),
        4096: _Layers(4, (128, 192, 256, 384, 512), (False, False, False, True, True), 3),
    },
}


def network_layers(image_size: tuple[int, int], size: NetworkSize) -> dict[str, Any]:
    """Return the fields of `NetworkSpec` that determine the layers, for images (or latents) of a size.

    Args:
        image_size: (height, width); the longer side counts.
        size: budget.

    Raises:
        ValueError: the image is larger than the largest supported size.
    """
    for largest, layers in _SIZES[size].items():
        if max(image_size) <= largest:
            return {
                "channels": layers.channels,
                "attention": layers.attention,
                "num_res_blocks": layers.num_res_blocks,
                "patch_size": layers.patch_size,
                "num_head_channels": 32 if size == "small" else 64,
                "num_norm_groups": 32,
            }
    raise ValueError(f"image_size must be at most {max(_SIZES[size])} pixels per side, got {image_size}")


def plain_layers(channels: tuple[int, ...]) -> dict[str, Any]:
    """Return the fields of `NetworkSpec` for these channels, with attention at the last level."""
    return {
        "channels": channels,
        "attention": (*(False,) * (len(channels) - 1), True),
        "num_res_blocks": 1,
        "patch_size": 1,
        "num_head_channels": 32,
        "num_norm_groups": 32,
    }
