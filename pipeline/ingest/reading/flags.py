"""Quality flags of scans, for review before training."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.pixels import MAX_VALUE
from pipeline.sources.base import BEYOND_BITS

NEAR_CONSTANT = "near_constant"
CLIPPED = "clipped"
UPSAMPLED = "upsampled"
EXTREME_ASPECT = "extreme_aspect"
INVERTED = "inverted_contrast"
UNLIKE = "unlike_the_rest"
UNEXPECTED_MODALITY = "unexpected_modality"
UNEXPECTED_VIEW = "unexpected_view"
TEXT = "burned_in_text"
TEXT_MASKED = "text_masked"
DUPLICATE = "duplicate"
NEAR_DUPLICATE = "near_duplicate"
LABEL_CONFLICT = "label_conflict"

EXPLANATIONS = {
    NEAR_CONSTANT: "The stored image has almost no contrast.",
    CLIPPED: "A large share of the pixels is at the white or black end of the range, so detail was lost.",
    UPSAMPLED: "The scan is smaller than the stored image.",
    EXTREME_ASPECT: "One side of the scan is more than two and a half times as long as the other.",
    INVERTED: "The image looks like a negative of the other images of its class.",
    UNLIKE: "The image is far from the others of its class: perhaps another view, body part or device.",
    UNEXPECTED_MODALITY: "The header has a modality that the manifest does not expect.",
    UNEXPECTED_VIEW: "The header or table has a view that the manifest does not expect.",
    BEYOND_BITS: "The pixel values need more bits than the header states; the values were kept.",
    TEXT: "Several aligned characters stand near the border; they may be a patient name or a date.",
    TEXT_MASKED: "Text near the border was painted over before the image was stored.",
    DUPLICATE: "Another scan has exactly the same stored pixels.",
    NEAR_DUPLICATE: "Another scan shows the same image, re-encoded, resized, brightened or cropped.",
    LABEL_CONFLICT: "An exact or near duplicate of this scan has another label.",
}
"""Flag -> explanation on the quality page, in the order of the page."""

NEAR_CONSTANT_STD = 0.02
"""Standard deviation below which an image counts as nearly constant, as a share of the full range."""

EXTREME_RATIO = 2.5

CLIPPED_WHITE = 0.12
"""Share of white pixels above which a scan counts as clipped. The largest share is 0.02 in 1,952 chest JPEGs,
and 0.09 in 2,000 chest and 2,000 hand images of 64 pixels."""

CLIPPED_BLACK = 0.5
"""Share of black pixels in the middle half of both axes above which a scan counts as clipped; borders are
naturally black. The largest share is 0.36 in the same chest images and 0.46 in the hand images."""


def flags_of(
    stored: npt.NDArray[np.generic], source_shape: tuple[int, ...], pixel_aspect: float
) -> tuple[str, ...]:
    """Return the flags that depend on the stored pixels and the shape of the source.

    Args:
        stored: (S, S) uint8 or uint16.
        source_shape: (H, W) of the scan.
        pixel_aspect: width divided by height of a source pixel.
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


def is_clipped(grid: npt.NDArray[Any], value_range: tuple[float, float] | None) -> bool:
    """Return whether too many pixels of a scan are white or black.

    Args:
        grid: (h, w) pixels of the scan on a grid, bright = dense.
        value_range: pixel values of black and white if the format defines them; else the extremes count.
    """
    low, high = value_range if value_range is not None else (grid.min(), grid.max())
    if np.count_nonzero(grid >= high) > CLIPPED_WHITE * grid.size:
        return True
    height, width = grid.shape
    middle = grid[height // 4 : height - height // 4, width // 4 : width - width // 4]
    return bool(np.count_nonzero(middle <= low) > CLIPPED_BLACK * middle.size)


def unexpected(
    source_format: str, view: str, modalities: tuple[str, ...], views: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the flags of a scan with a modality or view that the manifest does not expect.

    An unknown modality or view gives no flag.

    Args:
        source_format: such as `dicom CR`.
        view: such as `PA`, empty if unknown.
        modalities: expected modalities; empty accepts all.
        views: expected views; empty accepts all.
    """
    flags = []
    kind, _, modality = source_format.partition(" ")
    if modalities and kind == "dicom" and modality and modality not in modalities:
        flags.append(UNEXPECTED_MODALITY)
    if views and view and view not in views:
        flags.append(UNEXPECTED_VIEW)
    return tuple(flags)
