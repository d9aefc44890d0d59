"""How well two thumbnails agree once small shifts and stretches between them are undone."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Floats, Ints

Images = npt.NDArray[np.float32]

STEPS = 3
"""Gauss-Newton steps."""

MAX_MOVE = 0.06
"""Largest shift, and stretch at the border, as a share of the side."""

_MARGIN = 2
"""Rows and columns at the border that a shifted copy may lack."""

_ALIGN_BAND = (0.022, 0.12)
_SCORE_BAND = (0.0125, 0.04)
"""Standard deviations of the two Gaussians, as shares of the side, whose difference keeps the structure that
is used to align (ribs and outlines) and to compare (fine detail, which two patients do not share)."""


@dataclass(frozen=True)
class Prepared:
    """Thumbnails made ready for comparison: (N, T, T) each; `coarse` to align, `fine` to compare."""

    coarse: Images
    fine: Images

    def take(self, rows: Ints) -> Prepared:
        """Return some of them, in the order asked."""
        return Prepared(self.coarse[rows], self.fine[rows])


def prepare(thumbnails: npt.NDArray[np.uint8]) -> Prepared:
    """Split thumbnails (N, T, T) into the two bands."""
    side = thumbnails.shape[1]
    pixels = thumbnails.astype(np.float32)
    return Prepared(_band(pixels, side, _ALIGN_BAND), _band(pixels, side, _SCORE_BAND))


def aligned_correlation(first: Prepared, second: Prepared) -> Floats:
    """Return the zero-mean normalised correlation of fine detail of pairs, aligned or as they are.

    The second image is moved onto the first by shifts and stretches along both axes that Gauss-Newton steps
    find (Lucas and Kanade, IJCAI 1981; Baker and Matthews, IJCV 2004).

    Args:
        first, second: M prepared thumbnails each.

    Returns:
        (M,) in [-1, 1], the larger of the correlations with and without moving.
    """
    moves = _align(first.coarse, second.coarse)
    moved = _correlation(first.fine, _moved(second.fine, moves))
    return np.maximum(moved, _correlation(first.fine, second.fine))


def _align(first: Images, second: Images) -> npt.NDArray[np.float32]:
    """Return (M, 4): shifts down and right, stretches down and right, in pixels."""
    side = first.shape[1]
    place = _inner(np.linspace(-1, 1, side, dtype=np.float32)[None, None])[0]
    down, across = (_inner(np.gradient(first, axis=axis)) for axis in (1, 2))
    slopes = (down, across, down * place.T, across * place)
    normal = np.empty((len(first), 4, 4), dtype=np.float32)
    for i in range(4):
        for j in range(i + 1):
            normal[:, i, j] = normal[:, j, i] = np.einsum("myx,myx->m", slopes[i], slopes[j])
    # A little damping keeps directions without structure still.
    trace = np.trace(normal, axis1=1, axis2=2)
    normal += (1e-3 / 4 * trace + 1e-6)[:, None, None] * np.eye(4, dtype=np.float32)
    target = _inner(first)
    moves = np.zeros((len(first), 4), dtype=np.float32)
    limit = np.float32(MAX_MOVE * side)
    for _ in range(STEPS):
        here = _inner(_moved(second, moves))
        power = np.einsum("myx,myx->m", here, here)
        gain = np.clip(np.einsum("myx,myx->m", here, target) / np.maximum(power, 1e-6), 0.3, 3.0)
        error = target - gain[:, None, None] * here
        pull = np.stack([np.einsum("myx,myx->m", slope, error) for slope in slopes], axis=1)
        moves = np.clip(moves + np.linalg.solve(normal, pull[:, :, None])[:, :, 0], -limit, limit)
    return moves


def _moved(images: Images, moves: npt.NDArray[np.float32]) -> Images:
    """Sample images (M, T, T) linearly at moved places, as two products with interpolation matrices."""
    side = images.shape[1]
    index = np.arange(side, dtype=np.float32)
    place = np.linspace(-1, 1, side, dtype=np.float32)
    taps = []
    for axis in range(2):
        at = np.clip(index + moves[:, axis, None] + moves[:, axis + 2, None] * place, 0, side - 1)
        taps.append(np.maximum(1 - np.abs(at[:, :, None] - index), 0))
    return np.asarray(np.matmul(np.matmul(taps[0], images), taps[1].transpose(0, 2, 1)), dtype=np.float32)


def _correlation(first: Images, second: Images) -> Floats:
    a, b = (_inner(image).astype(np.float64) for image in (first, second))
    a -= a.mean(axis=(1, 2), keepdims=True)
    b -= b.mean(axis=(1, 2), keepdims=True)
    power = np.einsum("myx,myx->m", a, a) * np.einsum("myx,myx->m", b, b)
    return np.asarray(np.einsum("myx,myx->m", a, b) / np.sqrt(np.maximum(power, 1e-12)), dtype=np.float64)


def _inner(images: Images) -> Images:
    """Cut the margin off the last axis, and off the one before where it has more than one row."""
    rows = slice(_MARGIN, -_MARGIN) if images.shape[1] > 1 else slice(None)
    return images[:, rows, _MARGIN:-_MARGIN]


def _band(pixels: Images, side: int, band: tuple[float, float]) -> Images:
    narrow, wide = (_gaussian(side, share * side) for share in band)
    return np.asarray(narrow @ pixels @ narrow.T - wide @ pixels @ wide.T, dtype=np.float32)


@functools.cache
def _gaussian(side: int, sigma: float) -> npt.NDArray[np.float32]:
    """A Gaussian blur along one axis as a (side, side) matrix that repeats the border."""
    reach = int(np.ceil(3 * sigma))
    steps = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * np.square(steps / sigma))
    blur = np.zeros((side, side))
    for row in range(side):
        np.add.at(blur[row], np.clip(row + steps, 0, side - 1), weights / weights.sum())
    return blur.astype(np.float32)
