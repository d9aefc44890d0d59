"""The specification of the denoiser network: plain data, checked, read without torch."""

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

MAX_CLASSES = 10_000
MAX_IN_CHANNELS = 64
MAX_PATCH_SIZE = 16
MAX_CONDITIONS = 256

REFERENCE_SIDE = 64
"""Longest side up to which noise levels hold as they are given."""


@dataclass(frozen=True)
class NetworkSpec(Specification):
    """Shape of the denoiser network.

    A specification is plain data: it is stored in a checkpoint header, and the same network can be built from
    it.

    Attributes:
        image_size: (height, width) of a sample in pixels (or latents); any size, as the denoiser pads.
        num_classes: number of real classes. The network has one more row, the null class of classifier-free
            guidance, at index ``num_classes``.
        channels: feature channels of each level, finest first.
        num_res_blocks: residual blocks per level.
        attention: whether each level has self-attention.
        num_head_channels: channels per attention head.
        num_norm_groups: groups of the group normalisation; must divide every entry of ``channels``.
        in_channels: channels of a sample: 1 for scans, more for latents.
        patch_size: side of the squares of pixels that become the channels of one position. 2 leaves a quarter
            of the positions; CPUs are fast at wide layers on few positions.
        conditions: number of values of each condition field other than the class (attributes and findings).
        augment_features: number of augmentation features; 0 without augmentation.
    """

    kind: ClassVar[str] = "network"

    image_size: tuple[int, int]
    num_classes: int
    channels: tuple[int, ...] = (32, 64, 64)
    num_res_blocks: int = 1
    attention: tuple[bool, ...] = (False, False, True)
    num_head_channels: int = 32
    num_norm_groups: int = 32
    in_channels: int = 1
    patch_size: int = 1
    conditions: tuple[int, ...] = ()
    augment_features: int = 0

    def __post_init__(self) -> None:
        check_image_size(self.image_size, 4)
        check_range("num_classes", self.num_classes, 1, MAX_CLASSES)
        check_range("num_res_blocks", self.num_res_blocks, 1, 16)
        check_range("num_head_channels", self.num_head_channels, 1, MAX_CHANNELS)
        check_range("num_norm_groups", self.num_norm_groups, 1, MAX_CHANNELS)
        check_range("in_channels", self.in_channels, 1, MAX_IN_CHANNELS)
        check_range("patch_size", self.patch_size, 1, MAX_PATCH_SIZE)
        check_range("augment_features", self.augment_features, 0, MAX_CHANNELS)
        if not isinstance(self.conditions, tuple) or len(self.conditions) > MAX_CONDITIONS:
            raise ValueError(
                f"conditions must be a tuple of at most {MAX_CONDITIONS} numbers, got {self.conditions!r}"
            )
        for count in self.conditions:
            check_range("conditions", count, 1, MAX_CLASSES)
        check_channels(self.channels, self.num_norm_groups)
        if not isinstance(self.attention, tuple) or any(type(flag) is not bool for flag in self.attention):
            raise ValueError(f"attention must be a tuple of true / false, got {self.attention!r}")
        if len(self.attention) != len(self.channels):
            raise ValueError(
                f"attention must have one entry per level: {len(self.channels)} channels, "
                f"{len(self.attention)} entries"
            )
        # The middle block always has attention, so the coarsest level must divide into heads too.
        attending = {count for count, flag in zip(self.channels, self.attention, strict=True) if flag} | {
            self.channels[-1]
        }
        for count in sorted(attending):
            if count % self.num_head_channels:
                raise ValueError(
                    f"num_head_channels={self.num_head_channels} must divide the channels of every level "
                    f"with attention and of the last level, got {count}"
                )

    @property
    def multiple(self) -> int:
        """Number of pixels of which height and width must be multiples inside the network."""
        return self.patch_size * 2 ** (len(self.channels) - 1)

    @property
    def noise_scale(self) -> float:
        """Factor by which noise levels grow with the size of a sample, at least 1.

        On twice the side, a structure covers four times the pixels, whose noise averages out to half: noise
        twice as strong hides it as before (Hoogeboom et al. 2023, arXiv 2301.11093, section 3.1).
        """
        return max(1.0, max(self.image_size) / REFERENCE_SIDE)

    @property
    def num_values(self) -> tuple[int, ...]:
        """Number of values of every condition field, the class first; it is also the field's null code."""
        return (self.num_classes, *self.conditions)

    @property
    def null_label(self) -> int:
        """The class index that stands for "no class given"."""
        return self.num_classes
