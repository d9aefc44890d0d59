"""The specification of the autoencoder: plain data, checked, read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from models.network.specification import (
    MAX_CHANNELS,
    Specification,
    check_channels,
    check_image_size,
    check_range,
)

MAX_PATCH_SIZE = 16


@dataclass(frozen=True)
class AutoencoderSpec(Specification):
    """Shape of the autoencoder.

    A specification is plain data: it is stored in a checkpoint, and the same network can be built from it.

    Attributes:
        image_size: (height, width) of a scan in pixels; any size, as the autoencoder pads.
        channels: feature channels of each level, finest first; each level but the first halves the sides.
        latent_channels: channels of the latent.
        patch_size: side, in pixels, of the squares that become channels before the first level. It divides
            the cost of every level by its square.
        num_res_blocks: residual blocks per level.
        num_norm_groups: groups of the group normalisation; must divide every entry of ``channels``.
    """

    kind: ClassVar[str] = "autoencoder"

    image_size: tuple[int, int]
    channels: tuple[int, ...] = (32, 64, 64)
    latent_channels: int = 4
    patch_size: int = 2
    num_res_blocks: int = 1
    num_norm_groups: int = 16

    def __post_init__(self) -> None:
        check_image_size(self.image_size, 1)
        check_range("latent_channels", self.latent_channels, 1, 64)
        check_range("patch_size", self.patch_size, 1, MAX_PATCH_SIZE)
        check_range("num_res_blocks", self.num_res_blocks, 1, 16)
        check_range("num_norm_groups", self.num_norm_groups, 1, MAX_CHANNELS)
        check_channels(self.channels, self.num_norm_groups)

    @property
    def factor(self) -> int:
        """Number of pixels per latent position along a side."""
        return int(self.patch_size * 2 ** (len(self.channels) - 1))

    @property
    def latent_size(self) -> tuple[int, int]:
        """(height, width) of the latent: the image's, padded to a multiple of ``factor``, divided by it."""
        height, width = self.image_size
        return -(-height // self.factor), -(-width // self.factor)
