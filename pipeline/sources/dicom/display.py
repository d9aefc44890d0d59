"""Converts stored values to display values: Modality LUT, VOI LUT, Presentation LUT and inversion.

The order is that of PS3.3 C.11 and PS3.4 N.2. If all steps are linear, stored values are only clipped to the
window and inverted, so that integers stay integers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanRefusedError
from pipeline.sources.dicom.header import Values
from pipeline.sources.dicom.luts import Lut, Numbers, Window, lut_of, rescale_of, voi_of

Mask = npt.NDArray[np.bool_]

_BLOCK_PIXELS = 2**20
"""Number of pixels per block in steps that copy pixels."""

_MAX_TABLE_VALUES = 2**17
_FINE_WINDOW = 2048
"""Smallest window width at which rounding an edge to an integer moves it by at most 1/4096 of the width."""


class Shown(NamedTuple):
    """A frame in display values.

    Attributes:
        pixels: (H, W) real numbers; larger values are brighter.
        black: value that the file displays as black, or the smallest value.
        white: value that the file displays as white, or the largest value.
        exceeds_bits: whether stored values exceed `BitsStored` bits.
    """

    pixels: npt.NDArray[Any]
    black: float
    white: float
    exceeds_bits: bool = False


class Chain(NamedTuple):
    """The steps from stored to display values.

    Attributes:
        slope: rescale slope.
        intercept: rescale intercept.
        modality: Modality LUT; replaces the rescale.
        voi: VOI LUT or window.
        presentation: Presentation LUT.
        inverted: whether small values are displayed bright.
    """

    slope: float
    intercept: float
    modality: Lut | None
    voi: Window | Lut | None
    presentation: Lut | None
    inverted: bool

    @property
    def is_linear(self) -> bool:
        """Whether there is no lookup table and no sigmoid window."""
        linear = self.voi is None or (isinstance(self.voi, Window) and self.voi.function != "SIGMOID")
        return linear and self.modality is None and self.presentation is None

    def levels(self, stored: Numbers) -> tuple[Numbers, float]:
        """Return display levels before inversion, and the largest possible level; the smallest is 0.

        Raises:
            ScanRefusedError: there is a Presentation LUT, but its input has no fixed range.
        """
        values, top = self.slope * stored + self.intercept, 0.0
        if self.modality is not None:
            values, top = self.modality.look_up(stored), self.modality.top
        if isinstance(self.voi, Lut):
            values, top = self.voi.look_up(values), self.voi.top
        elif self.voi is not None:
            values, top = self.voi.levels(values), 1.0
        if self.presentation is not None:
            if not top:
                raise ScanRefusedError("a Presentation LUT without a range of values")
            last = len(self.presentation.entries) - 1
            values = self.presentation.entries[np.rint(values / top * last).astype(np.int64)]
            top = self.presentation.top
        return values, top


def chain_of(values: Values, window: str, *, signed: bool, little: bool) -> Chain:
    """Return the steps that convert the stored values of a frame.

    Args:
        values: attributes of the frame.
        window: as in `DicomOptions`.
        signed: whether stored values are signed.
        little: whether the file is little-endian.

    Raises:
        ScanRefusedError: a lookup table, window or rescale is invalid.
    """
    tables = values.get("ModalityLUTSequence")
    modality = lut_of(tables[0], signed=signed, little=little) if tables else None
    slope, intercept = (1.0, 0.0) if modality else rescale_of(values)
    negative = modality is None and (signed or intercept < 0)
    shapes = values.get("PresentationLUTSequence")
    return Chain(
        slope,
        intercept,
        modality,
        voi_of(values, window, signed=negative, little=little),
        lut_of(shapes[0], signed=False, little=little) if shapes else None,
        values.get("PhotometricInterpretation") == "MONOCHROME1"
        or values.get("PresentationLUTShape") == "INVERSE",
    )


def show(stored: npt.NDArray[Any], chain: Chain, empty: Mask | None) -> Shown:
    """Apply a chain to stored values.

    Args:
        stored: (H, W) stored values; not changed.
        chain: the steps to apply.
        empty: (H, W) mask of padding and of pixels outside the shutter. These pixels are excluded from value
            ranges and set to the darkest value of the image.

    Returns:
        The frame; `pixels` may be `stored` itself.

    Raises:
        ScanRefusedError: all pixels are empty, no pixel value lies in the window, or a step is invalid.
    """
    found = value_range(stored, empty)
    window = _edges(chain, stored.dtype) if chain.is_linear else None
    if window is not None:
        shown, dark = _clipped(stored, window, found, chain.inverted ^ (chain.slope < 0))
    else:
        shown = _looked_up(stored, chain, found)
        dark = value_range(shown.pixels, empty)[0] if empty is not None else 0
    if empty is None:
        return shown
    pixels = shown.pixels.copy() if shown.pixels is stored else shown.pixels
    pixels[empty] = dark
    return shown._replace(pixels=pixels)


def row_blocks(pixels: npt.NDArray[Any]) -> Iterator[slice]:
    """Yield slices of rows with about `_BLOCK_PIXELS` pixels each."""
    step = max(1, _BLOCK_PIXELS // pixels.shape[1])
    for start in range(0, len(pixels), step):
        yield slice(start, start + step)


def value_range(pixels: npt.NDArray[Any], empty: Mask | None) -> tuple[Any, Any]:
    """Return the smallest and the largest value of the pixels that are not empty.

    Raises:
        ScanRefusedError: all pixels are empty, or a value is not finite.
    """
    if empty is None:
        low, high = pixels.min(), pixels.max()
    else:
        parts = (pixels[rows][~empty[rows]] for rows in row_blocks(pixels))
        found = [(part.min(), part.max()) for part in parts if part.size]
        if not found:
            raise ScanRefusedError("nothing but padding and shutter")
        low, high = min(pair[0] for pair in found), max(pair[1] for pair in found)
    if pixels.dtype.kind != "f":
        return int(low), int(high)
    if not np.isfinite([low, high]).all():
        raise ScanRefusedError("pixel values are not finite")
    return float(low), float(high)


def _edges(chain: Chain, dtype: np.dtype[Any]) -> tuple[float, float] | None:
    """Return the window's edges as stored values, or None if rounding them to integers would be visible."""
    if not isinstance(chain.voi, Window):
        return -np.inf, np.inf
    low, high = sorted((edge - chain.intercept) / chain.slope for edge in chain.voi.edges)
    if not np.isfinite([low, high]).all():
        raise ScanRefusedError("window or rescale not usable")
    if dtype.kind == "f":
        return low, high
    exact = low == round(low) and high == round(high)
    if high == low or not (exact or high - low >= _FINE_WINDOW):
        return None
    return round(low), round(high)


def _clipped(
    stored: npt.NDArray[Any], window: tuple[float, float], found: tuple[Any, Any], inverted: bool
) -> tuple[Shown, Any]:
    """Return stored values clipped to a window, inverted if needed, and the darkest value."""
    low, high = max(window[0], found[0]), min(window[1], found[1])
    if high <= window[0] or low >= window[1]:
        raise ScanRefusedError("window lies outside the pixel values")
    black, white = window if np.isfinite(window[0]) else found
    pixels = stored.astype(np.float32) if stored.dtype == np.float64 else stored
    if low > found[0] or high < found[1]:
        kind = pixels.dtype.type
        pixels = np.clip(pixels, kind(low), kind(high))
    if inverted:
        pixels = _mirrored(pixels, low + high, None if pixels is stored else pixels)
        black, white = low + high - white, low + high - black
    return Shown(pixels, float(black), float(white)), low


def _mirrored(pixels: npt.NDArray[Any], total: Any, out: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    """Return `total - pixels` in the same dtype; `total` is the smallest plus the largest value."""
    if pixels.dtype.kind == "f":
        return np.subtract(pixels.dtype.type(total), pixels, out=out)
    # Modulo 2**bits, because the total may lie outside the dtype; the difference never does.
    unsigned = np.dtype(f"u{pixels.dtype.itemsize}")
    base = unsigned.type(int(total) % (1 << (8 * pixels.dtype.itemsize)))
    target = None if out is None else out.view(unsigned)
    return np.subtract(base, pixels.view(unsigned), out=target).view(pixels.dtype)


def _looked_up(stored: npt.NDArray[Any], chain: Chain, found: tuple[Any, Any]) -> Shown:
    """Return display levels from black to white as integers of at most 16 bits.

    All steps are pointwise. If the value range is small, the chain is therefore evaluated once per value in
    the range, and the pixels are looked up.
    """
    low, high = found
    short = stored.dtype.kind in "iu" and high - low < _MAX_TABLE_VALUES
    table, top = _words(chain, np.arange(low, high + 1, dtype=np.float64)) if short else (None, 0.0)
    pixels = np.empty(stored.shape, dtype=np.uint16)
    for rows in row_blocks(stored):
        if table is not None:
            np.take(table, stored[rows].astype(np.intp) - low, out=pixels[rows], mode="clip")
        else:
            pixels[rows], top = _words(chain, np.clip(stored[rows].astype(np.float64), low, high))
    return Shown(pixels, 0.0, top)


def _words(chain: Chain, stored: Numbers) -> tuple[npt.NDArray[np.uint16], float]:
    with np.errstate(over="ignore", invalid="ignore"):
        levels, top = chain.levels(stored)
    if not np.isfinite(levels).all():
        raise ScanRefusedError("window or rescale not usable")
    if chain.inverted:
        levels = top - levels
    if top == 1.0:
        levels, top = levels * 65535.0, 65535.0
    return np.rint(levels).astype(np.uint16), top
