"""Masks the pixels of a DICOM frame in its padding (PS3.3 C.7.5.1.1.2) or outside its shutter (C.7.6.11).

The image is the intersection of its rectangular, circular and polygonal shutters. Bitmap shutters are
ignored, because only presentation states use them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanRefusedError
from pipeline.sources.dicom.display import Mask, row_blocks
from pipeline.sources.dicom.header import Values

MAX_VERTICES = 2_000
"""Largest number of vertices of a polygonal shutter."""

_MAX_COORDINATE = 100_000
_EDGES = (
    "ShutterUpperHorizontalEdge", "ShutterLowerHorizontalEdge",
    "ShutterLeftVerticalEdge", "ShutterRightVerticalEdge",
)  # fmt: skip


def empty_pixels(
    stored: npt.NDArray[Any], values: Values, *, signed: bool, pixel_aspect: float
) -> Mask | None:
    """Return an (H, W) mask of the pixels in padding or outside the shutter; None if there are none.

    Args:
        stored: (H, W) stored values.
        values: attributes of the frame.
        signed: whether stored values are signed.
        pixel_aspect: width over height of a pixel; a circular shutter is a circle in physical units.

    Raises:
        ScanRefusedError: an attribute of the shutter is missing or out of range.
    """
    padded = _padding(stored, values, signed)
    shutter = shutter_of(stored.shape[:2], values, pixel_aspect)
    if padded is None or shutter is None:
        return padded if shutter is None else shutter
    return np.logical_or(padded, shutter, out=padded)


def _padding(stored: npt.NDArray[Any], values: Values, signed: bool) -> Mask | None:
    first = values.get("PixelPaddingValue") or ()
    if not first or stored.dtype.kind not in "iu" or stored.ndim != 2:
        return None
    limits = [int(first[0]), int((values.get("PixelPaddingRangeLimit") or first)[0])]
    # The padding value may be read with another sign than the pixels, so its 16 bits are reinterpreted.
    offset = 0x8000 if signed else 0
    low, high = sorted((limit + offset) % 0x10000 - offset for limit in limits)
    if low == high:
        empty = stored == low
    else:
        empty = np.empty(stored.shape, dtype=np.bool_)
        for rows in row_blocks(stored):
            empty[rows] = (stored[rows] >= low) & (stored[rows] <= high)
    return empty if empty.any() else None


def shutter_of(shape: tuple[int, ...], values: Values, pixel_aspect: float = 1.0) -> Mask | None:
    """Return an (H, W) mask of the pixels outside the display shutter; None if there are none.

    Raises:
        ScanRefusedError: an attribute of the shutter is missing or out of range.
    """
    shapes = {text.strip() for text in str(values.get("ShutterShape", "")).split("\\")}
    masks = {"RECTANGULAR": _outside_rectangle, "CIRCULAR": _outside_circle, "POLYGONAL": _outside_polygon}
    outside: Mask | None = None
    for name in masks.keys() & shapes:
        mask = masks[name](shape, values, pixel_aspect)
        outside = mask if outside is None else np.logical_or(outside, mask, out=outside)
    return outside if outside is not None and outside.any() else None


def _numbers(values: Values, keyword: str, min_count: int) -> tuple[int, ...]:
    found = values.get(keyword, ())
    if len(found) < min_count or any(abs(number) > _MAX_COORDINATE for number in found):
        raise ScanRefusedError("display shutter not usable")
    return tuple(int(number) for number in found)


def _outside_rectangle(shape: tuple[int, ...], values: Values, _: float) -> Mask:
    top, bottom, left, right = (_numbers(values, keyword, 1)[0] for keyword in _EDGES)
    outside = np.ones(shape, dtype=np.bool_)
    # Rows and columns count from 1; the edges belong to the image.
    outside[max(top - 1, 0) : max(bottom, 0), max(left - 1, 0) : max(right, 0)] = False
    return outside


def _outside_circle(shape: tuple[int, ...], values: Values, pixel_aspect: float) -> Mask:
    row, column = _numbers(values, "CenterOfCircularShutter", 2)[:2]
    radius = _numbers(values, "RadiusOfCircularShutter", 1)[0]
    # The radius is in pixels along a row.
    down = ((np.arange(shape[0]) + 1 - row) / pixel_aspect) ** 2
    across = (np.arange(shape[1]) + 1.0 - column) ** 2
    outside = np.empty(shape, dtype=np.bool_)
    for rows in row_blocks(outside):
        outside[rows] = down[rows, None] + across > radius**2
    return outside


def _outside_polygon(shape: tuple[int, ...], values: Values, _: float) -> Mask:
    from PIL import Image, ImageDraw

    numbers = _numbers(values, "VerticesOfThePolygonalShutter", 6)
    if len(numbers) % 2 or len(numbers) > 2 * MAX_VERTICES:
        raise ScanRefusedError("display shutter not usable")
    drawn = Image.new("L", (shape[1], shape[0]), 1)
    corners = [(column - 1, row - 1) for row, column in zip(numbers[::2], numbers[1::2], strict=True)]
    ImageDraw.Draw(drawn).polygon(corners, fill=0)
    return np.asarray(drawn, dtype=np.bool_)
