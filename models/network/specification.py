"""Base of the network specifications: conversion to and from plain data, with checks of every value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from typing import Any, ClassVar, Self

MAX_LEVELS = 8
MAX_CHANNELS = 4096
MAX_IMAGE_SIZE = 4096


@dataclass(frozen=True)
class Specification:
    """Base of the frozen dataclasses that are stored in a checkpoint and from which networks are built."""

    kind: ClassVar[str] = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the specification as JSON-serialisable values."""
        values = asdict(self)
        return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Create a specification from the values of ``to_dict``, with checks of every value.

        Raises:
            ValueError: a field is missing, unknown, of the wrong type or out of range.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise ValueError(f"{cls.kind} specification has unknown fields {unknown}; known: {sorted(known)}")
        missing = sorted({field.name for field in fields(cls) if field.default is MISSING} - set(values))
        if missing:
            raise ValueError(f"{cls.kind} specification misses the fields {missing}")
        given: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**given)


def check_range(name: str, value: object, low: int, high: int) -> None:
    """Raise ValueError unless a field is an integer in its range."""
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{name} must be a whole number from {low} to {high}, got {value!r}")


def check_image_size(image_size: object, smallest: int) -> None:
    """Raise ValueError unless a field is (height, width), each at least `smallest` pixels."""
    if not isinstance(image_size, tuple) or len(image_size) != 2:
        raise ValueError(f"image_size must be (height, width), got {image_size!r}")
    for pixels in image_size:
        check_range("image_size", pixels, smallest, MAX_IMAGE_SIZE)


def check_channels(channels: object, num_norm_groups: int) -> None:
    """Raise ValueError unless a field is a tuple of channels per level, all multiples of the groups."""
    if not isinstance(channels, tuple) or not 1 <= len(channels) <= MAX_LEVELS:
        raise ValueError(f"channels must be a tuple of 1 to {MAX_LEVELS} numbers, got {channels!r}")
    for count in channels:
        check_range("channels", count, 1, MAX_CHANNELS)
        if count % num_norm_groups:
            raise ValueError(
                f"channels must be multiples of num_norm_groups={num_norm_groups}, got {channels}"
            )
