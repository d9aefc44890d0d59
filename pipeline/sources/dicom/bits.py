"""Extracts pixel values from stored words (PS3.5, 8.1.1), also where values exceed Bits Stored.

The standard ignores all bits outside Bits Stored, where old files keep overlays. In recent files, set bits
there usually mean that the header names too few bits. Cutting them off would wrap bright values around.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanRefusedError
from pipeline.sources.dicom.header import OVERLAY_GROUPS, Header
from pipeline.sources.dicom.layout import Layout

Stored = npt.NDArray[Any]
"""(H, W) or (H, W, 3) integers, float32 or float64."""


def own_bits(
    pixels: Stored, layout: Layout, overlays: int = 0, *, codestream: bool = False
) -> tuple[Stored, bool]:
    """Return the pixel values of stored words, and whether they exceed `BitsStored` bits.

    Args:
        pixels: stored words.
        layout: the file's layout.
        overlays: mask of the bits that hold overlays according to the header; these bits are removed.
        codestream: whether the words come from a compressed codestream. Such words may lack sign extension.

    Returns:
        The values of the `BitsStored` bits up to `HighBit`, signed as the header says, and False. If bits
        outside them are set that hold no overlay, the values of the whole words and True. If all words are
        non-negative, but some are negative in `BitsStored` bits, the negative values and True: the values
        may have wrapped around. From a codestream, such values are expected, and the flag is False.

    Raises:
        ScanRefusedError: colour values exceed `BitsStored` bits, so the value of white is unknown.
    """
    width = 8 * pixels.dtype.itemsize
    if pixels.dtype.kind not in "iu" or layout.stored >= width:
        return pixels, False
    high = layout.stored - 1 if codestream or layout.allocated > width else layout.high
    if layout.signed:
        values, exceeds = _signed(pixels, layout.stored, high, overlays, codestream)
    else:
        values, exceeds = _unsigned(pixels, layout.stored, high, overlays)
    if exceeds and layout.samples != 1:
        raise ScanRefusedError("values beyond the bits stored")
    return values, exceeds


def overlay_bits(header: Header) -> int:
    """Return a mask of the bits of a pixel's word that hold overlays (PS3.3 C.9.2, retired in 2004)."""
    mask = 0
    for group in OVERLAY_GROUPS:
        # An overlay stored outside the pixel data has one bit allocated and position 0.
        if header.number(f"OverlayBitsAllocated {group:04X}", 1) > 1:
            position = header.number(f"OverlayBitPosition {group:04X}", 0)
            mask |= 1 << position if position < 32 else 0
    return mask


def _unsigned(pixels: Stored, stored: int, high: int, overlays: int) -> tuple[Stored, bool]:
    shift = high + 1 - stored
    value_bits = ((1 << stored) - 1) << shift
    used = int(np.bitwise_or.reduce(pixels, axis=None))
    if used & ~value_bits & ~overlays:
        return _cleared(pixels, used & overlays & ~value_bits), True
    values = _cleared(pixels, used & ~value_bits)
    return values >> shift if shift else values, False


def _signed(pixels: Stored, stored: int, high: int, overlays: int, codestream: bool) -> tuple[Stored, bool]:
    width, shift = 8 * pixels.dtype.itemsize, high + 1 - stored
    above = width - 1 - high
    used = int(np.bitwise_or.reduce(pixels.view(f"u{width // 8}"), axis=None))
    low_bits = (1 << shift) - 1
    if used & low_bits & ~overlays:
        return pixels, True
    half, low, top = 1 << high, int(pixels.min()), int(pixels.max())
    if -half <= low and top < half and not used & low_bits:
        return pixels >> shift if shift else pixels, False
    # The bits above the value hold overlays, or lack the copies of the sign bit.
    unextended = low >= 0 and top < 2 * half
    if unextended or overlays >> (high + 1):
        return (pixels << above) >> (above + shift), unextended and not overlays and not codestream
    return pixels, True


def _cleared(pixels: Stored, bits: int) -> Stored:
    """Return words with the bits of a mask set to 0; the array itself if the mask is 0."""
    all_bits = (1 << 8 * pixels.dtype.itemsize) - 1
    return pixels & pixels.dtype.type(all_bits & ~bits) if bits else pixels
