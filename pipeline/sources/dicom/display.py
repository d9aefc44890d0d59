"""From stored values to values as they are meant to be seen: Modality LUT, VOI LUT, photometric sense.

The order is the standard's (PS3.3 C.11, PS3.4 N.2). Where nothing but straight lines and a clipping lie
between stored and shown values, stored values are kept and only clipped, so that whole numbers stay whole.
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
"""Pixels that are worked on at once where a step needs room for copies."""

_LARGEST_TABLE = 2**17
_FINE_WINDOW = 2048
"""Values a window needs so that rounding its edges to whole numbers stays below 1/4096 of black to white."""


class Shown(NamedTuple):
    """A frame as it is meant to be seen.

    Attributes:
        pixels: (H, W) real numbers, bright = dense, on a scale of their own.
        black: the value on that scale that is black by the file, or the smallest that occurs.
        white: the value that is white by the file, or the largest that occurs.
        beyond: whether stored values go beyond the bits that the header gives them.
    """

    pixels: npt.NDArray[Any]
    black: float
    white: float
    beyond: bool = False


class Chain(NamedTuple):
    """All that lies between stored and shown values.

    Attributes:
        slope: rescale slope.
        intercept: rescale intercept.
        modality: Modality LUT; takes the place of the rescale.
        voi: VOI LUT or window.
        presentation: Presentation LUT.
        inverted: whether small values are bright.
    """

    slope: float
    intercept: float
    modality: Lut | None
    voi: Window | Lut | None
    presentation: Lut | None
    inverted: bool

    @property
    def is_linear(self) -> bool:
        """Whether rescale and a straight window are all."""
        straight = self.voi is None or (isinstance(self.voi, Window) and self.voi.function != "SIGMOID")
        return straight and self.modality is None and self.presentation is None

    def levels(self, stored: Numbers) -> tuple[Numbers, float]:
        """Return the shown values of stored ones, and the value that is white; black is 0."""
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
    """Return what has to be applied to the stored values of a frame.

    Args:
        values: attributes of the frame.
        window: as in `DicomOptions`.
        signed: whether stored values are signed.
        little: whether the file is little-endian.

    Raises:
        ScanRefusedError: a table, window or rescale cannot be used.
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
        chain: what has to be applied.
        empty: (H, W) where there is no image: padding, or outside the shutter. These pixels have no part in
            any range and take the darkest value of the image.

    Returns:
        The frame; `pixels` may be `stored` itself.

    Raises:
        ScanRefusedError: no pixel is left, or the window lies beside all of them.
    """
    low, high = value_range(stored, empty)
    window = _edges(chain, stored.dtype) if chain.is_linear else None
    if window is not None:
        shown, dark = _clipped(stored, window, (low, high), chain.inverted ^ (chain.slope < 0))
    else:
        shown = _looked_up(stored, chain, (low, high))
        dark = value_range(shown.pixels, empty)[0] if empty is not None else 0
    if empty is None:
        return shown
    pixels = shown.pixels.copy() if shown.pixels is stored else shown.pixels
    pixels[empty] = dark
    return shown._replace(pixels=pixels)


def row_blocks(pixels: npt.NDArray[Any]) -> Iterator[slice]:
    """Yield slices of rows that hold about `_BLOCK_PIXELS` pixels each."""
    step = max(1, _BLOCK_PIXELS // pixels.shape[1])
    for start in range(0, len(pixels), step):
        yield slice(start, start + step)


def value_range(pixels: npt.NDArray[Any], empty: Mask | None) -> tuple[Any, Any]:
    """Return the smallest and the largest value where there is an image.

    Raises:
        ScanRefusedError: there is none, or a value is not finite.
    """
    if empty is None:
        low, high = pixels.min(), pixels.max()
    else:
        found = [(part.min(), part.max()) for part in _kept(pixels, empty) if part.size]
        if not found:
            raise ScanRefusedError("nothing but padding and shutter")
        low, high = min(pair[0] for pair in found), max(pair[1] for pair in found)
    if pixels.dtype.kind != "f":
        return int(low), int(high)
    if not np.isfinite([low, high]).all():
        raise ScanRefusedError("pixel values are not finite")
    return float(low), float(high)


def _kept(pixels: npt.NDArray[Any], empty: Mask) -> Iterator[npt.NDArray[Any]]:
    for rows in row_blocks(pixels):
        yield pixels[rows][~empty[rows]]


def _edges(chain: Chain, dtype: np.dtype[Any]) -> tuple[float, float] | None:
    """Return the window's edges as stored values; None: rounding them to whole numbers would show."""
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
    """Return stored values clipped to a window and turned bright = dense, and the darkest of them."""
    low, high = max(window[0], found[0]), min(window[1], found[1])
    if high <= window[0] or low >= window[1]:
        raise ScanRefusedError("window lies outside the pixel values")
    black, white = (window[0], window[1]) if np.isfinite(window[0]) else found
    pixels = stored
    if stored.dtype == np.float64:
        pixels = stored.astype(np.float32)
    if low > found[0] or high < found[1]:
        kind = pixels.dtype.type
        pixels = np.clip(pixels, kind(low), kind(high))
    if inverted:
        out = None if pixels is stored else pixels
        pixels = _mirrored(pixels, low + high, out)
        black, white = low + high - white, low + high - black
    return Shown(pixels, float(black), float(white)), low


def _mirrored(pixels: npt.NDArray[Any], total: Any, out: npt.NDArray[Any] | None) -> npt.NDArray[Any]:
    """Return `total - pixels` in the same dtype: a mirror about the middle of the pixels' own range."""
    if pixels.dtype.kind == "f":
        return np.subtract(pixels.dtype.type(total), pixels, out=out)
    # Modulo 2**bits, since the total itself may lie outside the dtype; the difference never does.
    unsigned = np.dtype(f"u{pixels.dtype.itemsize}")
    base = unsigned.type(int(total) % (1 << (8 * pixels.dtype.itemsize)))
    target = None if out is None else out.view(unsigned)
    return np.subtract(base, pixels.view(unsigned), out=target).view(pixels.dtype)


def _looked_up(stored: npt.NDArray[Any], chain: Chain, found: tuple[Any, Any]) -> Shown:
    """Return levels from black to white, as whole numbers of at most 16 bits.

    Each step maps a stored value to one value whatever its neighbours are, so that the chain is worked out
    once for each value that can occur and looked up for the pixels.
    """
    low, high = found
    short = stored.dtype.kind in "iu" and high - low < _LARGEST_TABLE
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
