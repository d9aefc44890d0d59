"""Converts colour frames of a DICOM file to luma (ITU-R BT.601), and refuses truly colourful ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanRefusedError
from pipeline.sources.dicom.display import row_blocks
from pipeline.sources.dicom.header import Header
from pipeline.sources.dicom.layout import PALETTE, Layout
from pipeline.sources.dicom.palette import palette_of
from pipeline.sources.images.source import COLOUR_TOLERANCE

Grey = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_CHROMA_TO_RGB = np.array([[0.0, 1.402], [-0.114 * 1.772 / 0.587, -0.299 * 1.402 / 0.587], [1.772, 0.0]])
"""(3, 2) matrix that maps full-range (Cb, Cr) to (R, G, B) - Y (PS3.3 C.7.6.3.1.2)."""


def grey_of(
    pixels: npt.NDArray[Any], photometric: str, layout: Layout, header: Header, *, colourful: bool
) -> tuple[Grey, float]:
    """Return the (H, W) luma of a colour frame and the value of white; black is 0.

    Args:
        pixels: (H, W, 3) samples, or (H, W) indices into a palette.
        photometric: photometric interpretation of the decoded samples.
        layout: the file's layout.
        header: the file's header, which may hold a palette.
        colourful: whether images with colour content are accepted.

    Raises:
        ScanRefusedError: the image is colourful and `colourful` is false, or its colours are not supported.
    """
    step = max(1, pixels.shape[0] // 128)
    sample, bits = pixels[::step, ::step], layout.stored
    palette = None
    if photometric == PALETTE:
        palette, bits = palette_of(header, signed=layout.signed), 16
        sample, photometric = palette.look_up(sample, palette.table), "RGB"
    elif layout.signed:
        raise ScanRefusedError("signed colours")
    if photometric not in {"RGB", "YBR_FULL", "YBR_FULL_422"}:
        raise ScanRefusedError("colour model not supported")
    top = float((1 << bits) - 1)
    if not colourful and _channel_difference(sample, photometric, bits) * 255 / top > COLOUR_TOLERANCE:
        raise ScanRefusedError("colour image")
    if palette is not None:
        return palette.look_up(pixels, luma(palette.table)), top
    if photometric != "RGB":
        return np.ascontiguousarray(pixels[..., 0]), top
    grey = np.empty(pixels.shape[:2], dtype=np.uint8 if bits <= 8 else np.uint16)
    for rows in row_blocks(grey):
        grey[rows] = luma(pixels[rows])
    return grey, top


def luma(rgb: npt.NDArray[Any]) -> npt.NDArray[np.uint16]:
    """Return the luma of (..., 3) RGB samples, computed as in Pillow in 16-bit fixed-point arithmetic."""
    red, green, blue = (rgb[..., number].astype(np.uint64) for number in range(3))
    return np.asarray((red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16).astype(np.uint16)


def _channel_difference(sample: npt.NDArray[Any], photometric: str, bits: int) -> float:
    """Return the mean difference between the colour channels, measured as for image files."""
    chroma = sample.astype(np.float64)
    if photometric != "RGB":
        chroma = (chroma[..., 1:] - float(1 << (bits - 1))) @ _CHROMA_TO_RGB.T
    return float(np.abs(chroma - chroma[..., 1:2]).mean() * 1.5)
