"""Colour pictures of a DICOM file as grey ones: luma of ITU-R BT.601, and what counts as colourful."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanRefusedError
from pipeline.sources.dicom_display import row_blocks
from pipeline.sources.dicom_header import Header
from pipeline.sources.dicom_layout import PALETTE, Layout
from pipeline.sources.images import COLOUR_TOLERANCE

Grey = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_CHROMA_TO_RGB = np.array([[0.0, 1.402], [-0.114 * 1.772 / 0.587, -0.299 * 1.402 / 0.587], [1.772, 0.0]])
"""(R, G, B) - Y by (Cb, Cr), full range (PS3.3 C.7.6.3.1.2)."""


def grey_of(
    pixels: npt.NDArray[Any], photometric: str, layout: Layout, header: Header, *, colourful: bool
) -> tuple[Grey, float]:
    """Return the luma of a colour frame, (H, W), and the value of white; black is 0.

    Args:
        pixels: (H, W, 3) samples, or (H, W) indices into a palette.
        photometric: photometric interpretation of the decoded samples.
        layout: the file's layout.
        header: the file's header, for its palette.
        colourful: whether a picture that is not grey in itself is taken.

    Raises:
        ScanRefusedError: a colourful picture that is not wanted, or colours that are not supported.
    """
    if layout.signed:
        raise ScanRefusedError("signed colours")
    bits = layout.stored
    if photometric == PALETTE:
        pixels, bits = _painted(pixels, header)
        photometric = "RGB"
    if photometric not in {"RGB", "YBR_FULL", "YBR_FULL_422"}:
        raise ScanRefusedError("colour model not supported")
    if not colourful and _spread(pixels, photometric, bits) * 255 / ((1 << bits) - 1) > COLOUR_TOLERANCE:
        raise ScanRefusedError("colour image")
    top = float((1 << bits) - 1)
    if photometric != "RGB":
        return np.ascontiguousarray(pixels[..., 0]), top
    grey = np.empty(pixels.shape[:2], dtype=np.uint8 if bits <= 8 else np.uint16)
    for rows in row_blocks(grey):
        red, green, blue = (pixels[rows, :, number].astype(np.uint64) for number in range(3))
        # In whole numbers with 16 bits behind the point, as Pillow computes it for image files.
        grey[rows] = (red * 19595 + green * 38470 + blue * 7471 + 0x8000) >> 16
    return grey, top


def _spread(pixels: npt.NDArray[Any], photometric: str, bits: int) -> float:
    """Return the mean difference between the channels of an RGB picture, as for image files."""
    step = max(1, pixels.shape[0] // 128)
    sample = pixels[::step, ::step].astype(np.float64)
    if photometric == "RGB":
        chroma = sample - sample[..., 1:2]
    else:
        middle = float(1 << (bits - 1))
        chroma = (sample[..., 1:] - middle) @ _CHROMA_TO_RGB.T
        chroma = chroma - chroma[..., 1:2]
    return float(np.abs(chroma).mean() * 1.5)


def _painted(indices: npt.NDArray[Any], header: Header) -> tuple[npt.NDArray[Any], int]:
    """Return the colours (PS3.3 C.7.9) that indices stand for, (H, W, 3), and their bits."""
    from pydicom.dataset import Dataset
    from pydicom.pixels.processing import apply_color_lut

    palette = Dataset()
    for keyword, value in header.values.items():
        if "PaletteColorLookupTable" in keyword:
            setattr(palette, keyword, list(value) if keyword.endswith("Descriptor") else value)
    try:
        pixels = np.asarray(apply_color_lut(indices, palette))
    # pydicom raises many kinds on broken tables (AttributeError, ValueError, struct.error, ...).
    except Exception as error:
        raise ScanRefusedError("palette missing or corrupt") from error
    return pixels, 8 * pixels.dtype.itemsize
