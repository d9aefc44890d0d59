"""Pictures for private pages and previews: pixels to PNG bytes, contact sheets, inline data addresses."""

from __future__ import annotations

import base64
import io

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.pixels import StoredPixels

GAP_PIXELS = 2
"""Width of the light line between the tiles of a contact sheet, in pixels of the sheet."""

GAP_VALUE = 255
MAX_SHEET_PIXELS = 64_000_000
"""Largest sheet that is made (8000 x 8000): beyond it no browser shows it well."""


def display_pixels(images: StoredPixels) -> npt.NDArray[np.uint8]:
    """Return stored pixels as 8 bits for the screen: uint8 as it is, uint16 divided by 257 and rounded.

    Args:
        images: any shape, uint8 in 0..255 or uint16 in 0..65535.

    Raises:
        ValueError: the pixels are neither uint8 nor uint16.
    """
    if images.dtype == np.uint8:
        return np.asarray(images, dtype=np.uint8)
    if images.dtype == np.uint16:
        return np.rint(images.astype(np.float32) / 257.0).astype(np.uint8)
    raise ValueError(f"images must be uint8 or uint16, got {images.dtype}")


def png_bytes(image: StoredPixels, *, scale: int = 1) -> bytes:
    """Encode one greyscale image as an 8-bit PNG, equal bytes for equal pixels.

    Args:
        image: (H, W) or (1, H, W), uint8 or uint16.
        scale: whole factor by which each pixel is repeated, so that no viewer can blur it.

    Raises:
        ValueError: the shape, dtype or scale is not one of these.
    """
    from PIL import Image

    flat = image[0] if image.ndim == 3 and image.shape[0] == 1 else image
    if flat.ndim != 2 or 0 in flat.shape:
        raise ValueError(f"image must be (H, W) or (1, H, W) and not empty, got {image.shape}")
    if scale < 1:
        raise ValueError(f"scale must be at least 1, got {scale}")
    shown = display_pixels(flat).repeat(scale, axis=0).repeat(scale, axis=1)
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(shown)).save(stream, format="PNG", compress_level=6)
    return stream.getvalue()


def contact_sheet(images: StoredPixels, columns: int, scale: int = 1) -> bytes:
    """Lay images out row by row, with a thin light line between them, as one 8-bit PNG.

    Args:
        images: (n, 1, H, W), uint8 or uint16, n at least 1.
        columns: images a row; the last row is filled up with the colour of the line.
        scale: whole factor by which each pixel is repeated.

    Returns:
        PNG bytes; the same bytes for the same arguments.

    Raises:
        ValueError: an argument is out of range, or the sheet would exceed `MAX_SHEET_PIXELS`.
    """
    if images.ndim != 4 or images.shape[1] != 1 or 0 in images.shape:
        raise ValueError(f"images must be (n, 1, H, W) and not empty, got {images.shape}")
    if columns < 1:
        raise ValueError(f"columns must be at least 1, got {columns}")
    if scale < 1:
        raise ValueError(f"scale must be at least 1, got {scale}")
    count, _, height, width = images.shape
    columns = min(columns, count)
    rows = -(-count // columns)
    tile_height, tile_width = height * scale + GAP_PIXELS, width * scale + GAP_PIXELS
    if rows * tile_height * columns * tile_width > MAX_SHEET_PIXELS:
        raise ValueError(
            f"scale {scale} makes a sheet of {count} images larger than {MAX_SHEET_PIXELS} pixels"
        )
    shown = display_pixels(images)[:, 0].repeat(scale, axis=1).repeat(scale, axis=2)
    shape = (rows * tile_height - GAP_PIXELS, columns * tile_width - GAP_PIXELS)
    sheet = np.full(shape, GAP_VALUE, dtype=np.uint8)
    for index, tile in enumerate(shown):
        top, left = index // columns * tile_height, index % columns * tile_width
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return png_bytes(sheet)


def data_uri(png: bytes) -> str:
    """Return PNG bytes as a `data:` address, for pages that must open without any other file."""
    return "data:image/png;base64," + base64.b64encode(png).decode("ascii")
