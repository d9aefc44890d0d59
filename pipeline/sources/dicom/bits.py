"""The bits of a stored word that are the value's own (PS3.5, 8.1.1), and words that do not keep to them.

The standard says that whatever lies outside of Bits Stored is to be ignored: once overlays lay there. Today
it is mostly a header that names too few bits, and a picture that would wrap round if they were cut off.
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
    """Return the values that words stand for, and whether they go beyond the bits that the header gives them.

    Args:
        pixels: words as they are stored.
        layout: the file's layout.
        overlays: bits of a word that hold overlays by the header, which are removed.
        codestream: whether a JPEG or JPEG-LS decoder made the words, which has no room for a sign.

    Returns:
        The values of `BitsStored` bits up to `HighBit`, signed as the header says. Where other bits are set,
        and no overlay is there, the whole words, and True. Words of positive numbers alone that are negative
        by their `BitsStored` bits are taken as the standard has it, and True as well: they may be wrapped.

    Raises:
        ScanRefusedError: colours go beyond their bits, so that nothing says what is white.
    """
    width = 8 * pixels.dtype.itemsize
    if pixels.dtype.kind not in "iu" or layout.stored >= width:
        return pixels, False
    high = layout.stored - 1 if codestream or layout.allocated > width else layout.high
    values, beyond = (_signed if layout.signed else _unsigned)(
        pixels, layout.stored, high, overlays, codestream
    )
    if beyond and layout.samples != 1:
        raise ScanRefusedError("values beyond the bits stored")
    return values, beyond


def overlay_bits(header: Header) -> int:
    """Return the bits of a pixel's word that hold overlays (PS3.3 C.9.2, retired in 2004), as a mask."""
    found = 0
    for group in OVERLAY_GROUPS:
        # An overlay with data of its own has one bit allocated, and position 0.
        if header.number(f"OverlayBitsAllocated {group:04X}", 1) > 1:
            position = header.number(f"OverlayBitPosition {group:04X}", 0)
            found |= 1 << position if position < 32 else 0
    return found


def _unsigned(pixels: Stored, stored: int, high: int, overlays: int, _: bool) -> tuple[Stored, bool]:
    below = high + 1 - stored
    own = ((1 << stored) - 1) << below
    used = int(np.bitwise_or.reduce(pixels, axis=None))
    if used & ~own & ~overlays:
        return _without(pixels, used & overlays & ~own), True
    values = _without(pixels, used & ~own)
    return values >> below if below else values, False


def _signed(pixels: Stored, stored: int, high: int, overlays: int, codestream: bool) -> tuple[Stored, bool]:
    width, below = 8 * pixels.dtype.itemsize, high + 1 - stored
    above = width - 1 - high
    used = int(np.bitwise_or.reduce(pixels.view(f"u{width // 8}"), axis=None))
    low_bits = (1 << below) - 1
    if used & low_bits & ~overlays:
        return pixels, True
    half, least, most = 1 << high, int(pixels.min()), int(pixels.max())
    if -half <= least and most < half and not used & low_bits:
        return pixels >> below if below else pixels, False
    # The words hold no copies of the sign, or overlays in their place.
    packed = least >= 0 and most < 2 * half
    if packed or overlays >> (high + 1):
        return (pixels << above) >> (above + below), packed and not overlays and not codestream
    return pixels, True


def _without(pixels: Stored, bits: int) -> Stored:
    """Return words with some bits set to 0; the words themselves where there are none."""
    top = (1 << 8 * pixels.dtype.itemsize) - 1
    return pixels & pixels.dtype.type(top & ~bits) if bits else pixels
