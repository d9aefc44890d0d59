"""Converts a decoded scan to a square stored image: aspect, padding or cropping, grey levels, rounding."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.pixels import MAX_VALUE, stored_dtype
from pipeline.errors import ScanRefusedError
from pipeline.sources.images.resize import Box, area_average

SAMPLE_PIXELS = 16_384
"""Approximate number of pixels, on a fixed grid, from which percentiles are computed."""


def to_square(
    pixels: npt.NDArray[np.generic],
    size: int,
    *,
    fit: Literal["pad", "crop"],
    pixel_aspect: float,
    black_white: tuple[float, float],
    bit_depth: int,
) -> npt.NDArray[np.uint8] | npt.NDArray[np.uint16]:
    """Resample a scan to (size, size) by area averaging and map it to stored values.

    Args:
        pixels: (H, W), bright = dense.
        size: side of the result in pixels.
        fit: `pad` keeps the whole scan on a black square, `crop` fills the square with its centre.
        pixel_aspect: width divided by height of a source pixel; the result has square pixels.
        black_white: pixel values that become 0 and the largest stored value.
        bit_depth: 8 or 16.

    Returns:
        (size, size) uint8 or uint16.
    """
    height, width = pixels.shape
    top = MAX_VALUE[bit_depth]
    square = np.zeros((size, size), dtype=stored_dtype(bit_depth))
    if fit == "crop":
        content = area_average(pixels, size, size, crop_box(height, width, pixel_aspect))
        row = column = 0
    else:
        longer = max(height, width * pixel_aspect)
        rows = max(1, round(size * height / longer))
        columns = max(1, round(size * width * pixel_aspect / longer))
        content = area_average(pixels, rows, columns)
        row, column = (size - rows) // 2, (size - columns) // 2
    black, white = black_white
    scaled = np.rint(np.clip((content - black) / (white - black), 0.0, 1.0) * top)
    square[row : row + content.shape[0], column : column + content.shape[1]] = scaled.astype(square.dtype)
    return square


def crop_box(height: int, width: int, pixel_aspect: float) -> Box:
    """Return the largest centred box that is square after correction of the pixel aspect."""
    side = min(float(height), width * pixel_aspect)
    across = min(side / pixel_aspect, float(width))
    top, left = (height - side) / 2.0, (width - across) / 2.0
    return top, left, min(top + side, float(height)), min(left + across, float(width))


def on_grid(pixels: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Return every n-th pixel of every n-th row, about `SAMPLE_PIXELS`, as a contiguous array."""
    step = max(1, int(np.sqrt(pixels.size / SAMPLE_PIXELS)))
    return np.ascontiguousarray(pixels[::step, ::step])


def black_and_white(
    pixels: npt.NDArray[np.generic],
    percentiles: tuple[float, float],
    *,
    grid: npt.NDArray[np.generic] | None = None,
) -> tuple[float, float]:
    """Return the pixel values at two percentiles of a scan, computed on a fixed grid of pixels.

    The extremes of the whole scan replace percentiles that are equal.

    Args:
        pixels: (H, W).
        percentiles: rising, in [0, 100].
        grid: `on_grid(pixels)` if it was computed before.

    Raises:
        ScanRefusedError: the scan is constant.
    """
    sample = (grid if grid is not None else on_grid(pixels)).ravel()
    places = [percent / 100 * (sample.size - 1) for percent in percentiles]
    ranks = [(int(place), min(int(place) + 1, sample.size - 1)) for place in places]
    needed = sorted({rank for pair in ranks for rank in pair})
    value = dict(zip(needed, _ranked(sample, needed), strict=True))
    low, high = (
        value[below] + (place % 1) * (value[above] - value[below])
        for place, (below, above) in zip(places, ranks, strict=True)
    )
    if not high > low:
        low, high = float(pixels.min()), float(pixels.max())
    if not high > low:
        raise ScanRefusedError("constant image")
    return float(low), float(high)


def _ranked(sample: npt.NDArray[np.generic], ranks: list[int]) -> list[float]:
    """Return the values of a sample at some ranks; rank 0 is the smallest value."""
    if sample.dtype.kind == "u" and sample.dtype.itemsize <= 2:
        # Counting the values takes a third of the time of partitioning them.
        below = np.cumsum(np.bincount(sample.astype(np.intp)))
        return [float(value) for value in np.searchsorted(below, ranks, side="right")]
    values = sample.astype(np.float64)
    values.partition(ranks)
    return [float(values[rank]) for rank in ranks]
