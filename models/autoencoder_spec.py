"""The specification of the autoencoder: plain data, checked, read without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

MAX_LEVELS = 8
MAX_CHANNELS = 4096
MAX_IMAGE_SIZE = 4096
MAX_PATCH_SIZE = 16


@dataclass(frozen=True)
class AutoencoderSpec:
    """Everything that decides the shape of the autoencoder.

    A specification is plain data: it goes into a checkpoint and builds the same network again.

    Attributes:
        image_size: (height, width) of a scan in pixels; any size, the autoencoder pads inside.
        channels: feature channels of each level, finest first; each level but the first halves the sides.
        latent_channels: channels of the latent.
        patch_size: squares of so many pixels a side are laid out as channels before the first level, which
            divides the cost of every level by its square.
        num_res_blocks: residual blocks of each level.
        num_norm_groups: groups of the group normalisation; divides every entry of ``channels``.
    """

    image_size: tuple[int, int]
    channels: tuple[int, ...] = (32, 64, 64)
    latent_channels: int = 4
    patch_size: int = 2
    num_res_blocks: int = 1
    num_norm_groups: int = 16

    def __post_init__(self) -> None:
        if not isinstance(self.image_size, tuple) or len(self.image_size) != 2:
            raise ValueError(f"image_size must be (height, width), got {self.image_size!r}")
        for pixels in self.image_size:
            _check_range("image_size", pixels, 1, MAX_IMAGE_SIZE)
        _check_range("latent_channels", self.latent_channels, 1, 64)
        _check_range("patch_size", self.patch_size, 1, MAX_PATCH_SIZE)
        _check_range("num_res_blocks", self.num_res_blocks, 1, 16)
        _check_range("num_norm_groups", self.num_norm_groups, 1, MAX_CHANNELS)
        if not isinstance(self.channels, tuple) or not 1 <= len(self.channels) <= MAX_LEVELS:
            raise ValueError(f"channels must be a tuple of 1 to {MAX_LEVELS} numbers, got {self.channels!r}")
        for count in self.channels:
            _check_range("channels", count, 1, MAX_CHANNELS)
            if count % self.num_norm_groups:
                raise ValueError(
                    f"channels must be multiples of num_norm_groups={self.num_norm_groups}, "
                    f"got {self.channels}"
                )

    @property
    def factor(self) -> int:
        """How many pixels along a side become one place of the latent."""
        return int(self.patch_size * 2 ** (len(self.channels) - 1))

    @property
    def latent_size(self) -> tuple[int, int]:
        """(height, width) of the latent: the image's, padded to a multiple of ``factor``, divided by it."""
        height, width = self.image_size
        return -(-height // self.factor), -(-width // self.factor)

    def to_dict(self) -> dict[str, Any]:
        """The specification as JSON-ready values."""
        values = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> AutoencoderSpec:
        """Rebuild a specification from ``to_dict``'s values, checking every one of them.

        Raises:
            ValueError: a field is missing, unknown, of the wrong type or out of range.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(
                f"autoencoder specification has unknown fields {unknown}; known: {sorted(known)}"
            )
        if "image_size" not in values:
            raise ValueError("autoencoder specification misses the field image_size")
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**given)


def _check_range(name: str, value: object, low: int, high: int) -> None:
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {value!r}")
