"""Thumbnail of a stored image, and signature of its coarse structure."""

from __future__ import annotations

import functools

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.pixels import MAX_VALUE
from pipeline.sources.images.resize import area_average

THUMBNAIL_SIDE = 32
"""Largest side of a thumbnail in pixels; a smaller stored image is its own thumbnail."""

FREQUENCIES = 8
"""Cosine frequencies per axis from which a signature is made; it uses those of a radius below this number."""

SCALE = 127


def thumbnail(stored: npt.NDArray[np.generic]) -> npt.NDArray[np.uint8]:
    """Return a small 8-bit copy of a stored image.

    Args:
        stored: (S, S) uint8 or uint16.

    Returns:
        (T, T) uint8, T the smaller of S and `THUMBNAIL_SIDE`.
    """
    side = min(len(stored), THUMBNAIL_SIDE)
    if side == len(stored) and stored.dtype == np.uint8:
        return np.asarray(stored, dtype=np.uint8)
    small = area_average(stored, side, side)
    return np.rint(small * (255.0 / MAX_VALUE[stored.dtype.itemsize * 8])).astype(np.uint8)


def signatures(thumbnails: npt.NDArray[np.uint8]) -> npt.NDArray[np.int8]:
    """Return the signatures of a stack of thumbnails.

    A signature holds the lowest two-dimensional cosine coefficients without the mean, scaled to length
    `SCALE`. They are weighted by the square root of their frequency, because natural images lose amplitude
    with frequency. A signature does not change with brightness or contrast, and hardly with compression,
    resizing or slight cropping. The product of two signatures is an integer below 2**24, which float32
    computes exactly in any order of summation.

    Args:
        thumbnails: (N, T, T).

    Returns:
        (N, D) int8, D = `signature_length()`; all zero for a constant image.
    """
    waves = _waves(thumbnails.shape[1])
    rows, columns, weights = _weights()
    spectrum = np.matmul(np.matmul(waves, thumbnails.astype(np.float64)), waves.T)
    chosen = spectrum[:, rows, columns] * weights
    length = np.linalg.norm(chosen, axis=1, keepdims=True)
    # A shorter vector is the rounding error of a constant image.
    kept = np.where(length > thumbnails.shape[1] * 1e-3, SCALE / np.maximum(length, 1e-12), 0.0)
    return np.rint(chosen * kept).astype(np.int8)


def signature_length() -> int:
    """Return the number of values in a signature."""
    return len(_weights()[2])


@functools.cache
def _waves(side: int) -> npt.NDArray[np.float64]:
    """Return the orthonormal cosine basis (DCT-II), (FREQUENCIES, side)."""
    places = (np.arange(side) + 0.5) / side
    waves = np.cos(np.pi * np.arange(FREQUENCIES)[:, None] * places) * np.sqrt(2.0 / side)
    waves[0] /= np.sqrt(2.0)
    return np.asarray(waves, dtype=np.float64)


@functools.cache
def _weights() -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    rows, columns = np.mgrid[:FREQUENCIES, :FREQUENCIES]
    radius = np.hypot(rows, columns)
    chosen = (radius >= 1) & (radius < FREQUENCIES)
    return rows[chosen], columns[chosen], np.sqrt(radius[chosen])
