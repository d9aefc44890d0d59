"""From a decoded scan to a square stored image: aspect, padding or cropping, black and white, rounding."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.pixels import MAX_VALUE, stored_dtype
from pipeline.errors import ScanRefusedError
from pipeline.sources.images.resize import Box, area_average

SAMPLE_PIXELS = 16_384
"""Percentiles are taken over at most about this many pixels, on a fixed grid."""


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
        fit: `pad` keeps all of the scan on a black square, `crop` fills the square with its centre.
        pixel_aspect: width over height of a stored pixel; the result has square pixels.
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
    """Return the largest centred box that is square once the pixel aspect is undone."""
    side = min(float(height), width * pixel_aspect)
    across = min(side / pixel_aspect, float(width))
    top, left = (height - side) / 2.0, (width - across) / 2.0
    return top, left, min(top + side, float(height)), min(left + across, float(width))


def on_grid(pixels: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
    """Return every n-th pixel of every n-th row, about `SAMPLE_PIXELS` of them, side by side in memory."""
    step = max(1, int(np.sqrt(pixels.size / SAMPLE_PIXELS)))
    return np.ascontiguousarray(pixels[::step, ::step])


def black_and_white(
    pixels: npt.NDArray[np.generic],
    percentiles: tuple[float, float],
    *,
    grid: npt.NDArray[np.generic] | None = None,
) -> tuple[float, float]:
    """Return the values at two percentiles of a scan, taken on a fixed grid of pixels.

    Args:
        pixels: (H, W).
        percentiles: rising, in 0..100.
        grid: `on_grid` of the pixels, if it is there already.

    Raises:
        ScanRefusedError: the scan is constant.
    """
    sample = (grid if grid is not None else on_grid(pixels)).ravel()
    places = [percent / 100 * (sample.size - 1) for percent in percentiles]
    around = sorted({edge for place in places for edge in (int(place), min(int(place) + 1, sample.size - 1))})
    ranked = dict(zip(around, _ranked(sample, around), strict=True))
    low, high = (
        ranked[int(place)] + (place % 1) * (ranked[min(int(place) + 1, sample.size - 1)] - ranked[int(place)])
        for place in places
    )
    if not high > low:
        low, high = float(pixels.min()), float(pixels.max())
    if not high > low:
        raise ScanRefusedError("constant image")
    return float(low), float(high)


def _ranked(sample: npt.NDArray[np.generic], ranks: list[int]) -> list[float]:
    """Return the values of a sample at some ranks, ascending from 0."""
    if sample.dtype.kind == "u" and sample.dtype.itemsize <= 2:
        # Counting values takes a third of the time of partitioning them.
        below = np.cumsum(np.bincount(sample.astype(np.intp)))
        return [float(value) for value in np.searchsorted(below, ranks, side="right")]
    values = sample.astype(np.float64)
    values.partition(ranks)
    return [float(values[rank]) for rank in ranks]
