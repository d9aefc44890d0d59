"""Resizes images by exact area averaging at any ratio."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Box = tuple[float, float, float, float]
"""(top, left, bottom, right) in source pixels; edges may lie between pixels."""

_BLOCK_PIXELS = 2**22
"""Number of source pixels per block of the sum."""


def area_average(
    pixels: npt.NDArray[np.generic], height: int, width: int, box: Box | None = None
) -> npt.NDArray[np.float64]:
    """Resize an image so that each new pixel is the mean of the source area that it covers.

    Sums are computed in float64 and in a fixed order (no matrix product), so the result does not depend on
    the number of threads or the processor.

    Args:
        pixels: (H, W), any real dtype.
        height: new height in pixels.
        width: new width in pixels.
        box: the source area, inside the image; the whole image by default.

    Returns:
        (height, width) float64 pixels with the same mean as the box.

    Raises:
        ValueError: the box is empty or exceeds the image, or the new size is below 1.
    """
    rows, columns = pixels.shape
    top, left, bottom, right = box if box is not None else (0.0, 0.0, float(rows), float(columns))
    if not (0 <= top < bottom <= rows and 0 <= left < right <= columns) or height < 1 or width < 1:
        raise ValueError(f"box must lie inside {pixels.shape}, got {box} for size ({height}, {width})")
    if (top, left, bottom, right) == (0, 0, height, width):
        return pixels[:height, :width].astype(np.float64)
    narrow = _average_rows(pixels, height, top, bottom)
    return np.ascontiguousarray(_average_rows(np.ascontiguousarray(narrow.T), width, left, right).T)


def _average_rows(
    pixels: npt.NDArray[np.generic], count: int, start: float, stop: float
) -> npt.NDArray[np.float64]:
    """Average the rows from edge `start` to edge `stop` into `count` new rows."""
    rows = len(pixels)
    step = (stop - start) / count
    edges = start + np.arange(count + 1) * step
    edges[-1] = stop
    whole = np.minimum(edges.astype(np.int64), rows - 1)
    # The part of row `whole[i]` before edge i; it is 1 if the last edge is the end of the image.
    part = (edges - whole)[:, None]
    border = pixels[whole].astype(np.float64)
    if np.all(np.diff(whole) >= 1):
        # reduceat converts its whole input to float64, so it gets a block of rows at a time.
        sums = np.empty((count, pixels.shape[1]))
        group = max(1, _BLOCK_PIXELS * count // pixels.size)
        for first in range(0, count, group):
            begins = whole[first : first + group + 1]
            block = pixels[begins[0] : begins[-1]]
            np.add.reduceat(
                block, begins[:-1] - begins[0], axis=0, dtype=np.float64, out=sums[first : first + group]
            )
        sums += part[1:] * border[1:] - part[:-1] * border[:-1]
    else:
        # When enlarging, several edges lie in one row, and reduceat cannot compute empty sums.
        running = np.zeros((rows + 1, pixels.shape[1]))
        np.cumsum(pixels, axis=0, dtype=np.float64, out=running[1:])
        sums = np.diff(running[whole] + part * border, axis=0)
    return sums / step
