"""The specification of the denoiser network: plain data, checked, read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

MAX_LEVELS = 8
MAX_CHANNELS = 4096
MAX_CLASSES = 10_000
MAX_IMAGE_SIZE = 4096
MAX_IN_CHANNELS = 64
MAX_PATCH_SIZE = 16
MAX_CONDITIONS = 256


@dataclass(frozen=True)
class NetworkSpec:
    """Everything that decides the shape of the denoiser network.

    A specification is plain data: it goes into a checkpoint header and builds the same network again.

    Attributes:
        image_size: (height, width) of what is denoised, in pixels (or latents); any size, the denoiser pads
            inside.
        num_classes: number of real classes; the network holds one more row, the null class of
            classifier-free guidance, at index ``num_classes``.
        channels: feature channels of each level, finest first.
        num_res_blocks: residual blocks of each level.
        attention: for each level, whether it attends over all its positions.
        num_head_channels: channels of one attention head.
        num_norm_groups: groups of the group normalisation; divides every entry of ``channels``.
        in_channels: channels of what is denoised: 1 for scans, more for latents.
        patch_size: side of the squares of pixels that the network sees as the channels of one position. 2
            leaves a quarter of the positions: wide layers on few positions are what processors are fast at.
        conditions: number of values of each condition field beside the class (attributes and findings).
        augment_features: numbers that describe an augmentation to the network; 0 where nothing is augmented.
    """

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
        if not isinstance(self.image_size, tuple) or len(self.image_size) != 2:
            raise ValueError(f"image_size must be (height, width), got {self.image_size!r}")
        for pixels in self.image_size:
            _check_range("image_size", pixels, 4, MAX_IMAGE_SIZE)
        _check_range("num_classes", self.num_classes, 1, MAX_CLASSES)
        _check_range("num_res_blocks", self.num_res_blocks, 1, 16)
        _check_range("num_head_channels", self.num_head_channels, 1, MAX_CHANNELS)
        _check_range("num_norm_groups", self.num_norm_groups, 1, MAX_CHANNELS)
        _check_range("in_channels", self.in_channels, 1, MAX_IN_CHANNELS)
        _check_range("patch_size", self.patch_size, 1, MAX_PATCH_SIZE)
        _check_range("augment_features", self.augment_features, 0, MAX_CHANNELS)
        if not isinstance(self.conditions, tuple) or len(self.conditions) > MAX_CONDITIONS:
            raise ValueError(
                f"conditions must be a tuple of at most {MAX_CONDITIONS} numbers, got {self.conditions!r}"
            )
        for count in self.conditions:
            _check_range("conditions", count, 1, MAX_CLASSES)
        if not isinstance(self.channels, tuple) or not 1 <= len(self.channels) <= MAX_LEVELS:
            raise ValueError(f"channels must be a tuple of 1 to {MAX_LEVELS} numbers, got {self.channels!r}")
        for count in self.channels:
            _check_range("channels", count, 1, MAX_CHANNELS)
            if count % self.num_norm_groups:
                raise ValueError(
                    f"channels must be multiples of num_norm_groups={self.num_norm_groups}, "
                    f"got {self.channels}"
                )
        if not isinstance(self.attention, tuple) or any(type(flag) is not bool for flag in self.attention):
            raise ValueError(f"attention must be a tuple of true / false, got {self.attention!r}")
        if len(self.attention) != len(self.channels):
            raise ValueError(
                f"attention must have one entry a level: {len(self.channels)} channels, "
                f"{len(self.attention)} entries"
            )
        # The middle block attends whatever the levels do, so the coarsest level must divide into heads too.
        attending = {count for count, flag in zip(self.channels, self.attention, strict=True) if flag} | {
            self.channels[-1]
        }
        for count in sorted(attending):
            if count % self.num_head_channels:
                raise ValueError(
                    f"num_head_channels={self.num_head_channels} must divide the channels of every level "
                    f"that attends and of the last level, got {count}"
                )

    @property
    def multiple(self) -> int:
        """The number of pixels that height and width must be a multiple of inside the network."""
        return self.patch_size * 2 ** (len(self.channels) - 1)

    @property
    def num_values(self) -> tuple[int, ...]:
        """The number of values of every condition field, the class first; each one's null code equals it."""
        return (self.num_classes, *self.conditions)

    @property
    def null_label(self) -> int:
        """The class index that stands for "no class given"."""
        return self.num_classes

    def to_dict(self) -> dict[str, Any]:
        """The specification as JSON-ready values."""
        values = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> NetworkSpec:
        """Rebuild a specification from ``to_dict``'s values, checking every one of them.

        Raises:
            ValueError: a field is missing, unknown, of the wrong type or out of range.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"network specification has unknown fields {unknown}; known are {sorted(known)}")
        missing = sorted({"image_size", "num_classes"} - set(values))
        if missing:
            raise ValueError(f"network specification misses the fields {missing}")
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**given)


def _check_range(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
