"""Quality flags of a stored image: what a person should look at before training."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.pixels import MAX_VALUE

NEAR_CONSTANT = "near_constant"
UPSAMPLED = "upsampled"
EXTREME_ASPECT = "extreme_aspect"
DUPLICATE = "duplicate"
"""Exactly the same stored pixels as another scan that was kept."""

NEAR_CONSTANT_STD = 0.02
"""Standard deviation below which an image counts as nearly constant, as a share of the full range."""

EXTREME_RATIO = 2.5


def flags_of(
    stored: npt.NDArray[np.generic], source_shape: tuple[int, ...], pixel_aspect: float
) -> tuple[str, ...]:
    """Return the flags of one image.

    Args:
        stored: (S, S) uint8 or uint16.
        source_shape: (H, W) of the scan.
        pixel_aspect: width over height of a source pixel.
    """
    flags = []
    if float(stored.std()) < NEAR_CONSTANT_STD * MAX_VALUE[stored.dtype.itemsize * 8]:
        flags.append(NEAR_CONSTANT)
    if max(source_shape) < len(stored):
        flags.append(UPSAMPLED)
    ratio = source_shape[1] * pixel_aspect / source_shape[0]
    if max(ratio, 1 / ratio) > EXTREME_RATIO:
        flags.append(EXTREME_ASPECT)
    return tuple(flags)
