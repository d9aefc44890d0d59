"""Lookup tables and VOI windows of a DICOM file (PS3.3 C.11.1, C.11.2, C.11.6)."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanRefusedError
from pipeline.sources.dicom.header import Values

Numbers = npt.NDArray[np.float64]


class Window(NamedTuple):
    """A VOI window; its function is `LINEAR`, `LINEAR_EXACT` or `SIGMOID`."""

    center: float
    width: float
    function: str

    @property
    def edges(self) -> tuple[float, float]:
        """The values displayed as black and white; for a sigmoid, as 0.12 and 0.88 of white."""
        if self.function == "LINEAR":
            return self.center - 0.5 - (self.width - 1) / 2, self.center - 0.5 + (self.width - 1) / 2
        return self.center - self.width / 2, self.center + self.width / 2

    def levels(self, values: Numbers) -> Numbers:
        """Return display levels from 0 (black) to 1 (white) (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
        if self.function == "SIGMOID":
            exponent = np.clip(-4.0 * (values - self.center) / self.width, -700.0, 700.0)
            return 1.0 / (1.0 + np.exp(exponent))
        low, high = self.edges
        if high == low:
            return (values > low).astype(np.float64)
        return np.clip((values - low) / (high - low), 0.0, 1.0)


class Lut(NamedTuple):
    """A lookup table.

    Attributes:
        first: input value that is mapped to the first entry.
        entries: (N,) output values from 0 to `top`.
        top: largest output value that the bits of an entry can hold.
    """

    first: int
    entries: Numbers
    top: float

    def look_up(self, values: Numbers) -> Numbers:
        """Return the entries of values; values outside the table get its first or last entry."""
        indices = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        return self.entries[indices.astype(np.int64)]


def lut_of(item: Any, *, signed: bool, little: bool) -> Lut:
    """Return the lookup table of a sequence item.

    Args:
        item: a data set with LUT Descriptor and LUT Data.
        signed: whether input values may be negative.
        little: whether the file is little-endian.

    Raises:
        ScanRefusedError: the descriptor or the data are missing, or they contradict each other.
    """
    try:
        count, first, bits = (int(number) for number in item.LUTDescriptor)
        count = count & 0xFFFF or 0x10000
        if signed and first > 0x7FFF:
            first -= 0x10000
        entries = lut_entries(item.LUTData, count, little=little)
    # pydicom raises many exception types for corrupt attributes (AttributeError, ValueError, ...).
    except Exception as error:
        raise ScanRefusedError("lookup table missing or corrupt") from error
    if not 8 <= bits <= 16:
        raise ScanRefusedError("lookup table missing or corrupt")
    # In some files, entries have more bits than the descriptor says.
    bits = max(bits, int(entries.max()).bit_length())
    return Lut(first, entries.astype(np.float64), float((1 << bits) - 1))


def lut_entries(data: Any, count: int, *, little: bool) -> npt.NDArray[np.integer]:
    """Return the (count,) entries of a table, stored as words, as bytes, or as bytes packed into words.

    Raises:
        ValueError: the number of entries is not `count`.
    """
    if not isinstance(data, bytes):
        words = np.atleast_1d(np.asarray(data, dtype=np.int64)) & 0xFFFF
        if len(words) == count:
            return words
        data = words.astype("<u2" if little else ">u2").tobytes()
    if len(data) == 2 * count:
        return np.frombuffer(data, dtype="<u2" if little else ">u2")
    if len(data) != count + count % 2:
        raise ValueError(f"expected {count} entries, got {len(data)} bytes")
    if not little:
        data = np.frombuffer(data, dtype=">u2").astype("<u2").tobytes()
    return np.frombuffer(data, dtype=np.uint8)[:count]


def rescale_of(values: Values) -> tuple[float, float]:
    """Return rescale slope and intercept.

    Raises:
        ScanRefusedError: one is not finite, or the slope is 0.
    """
    slope = float(values.get("RescaleSlope", (1.0,))[0])
    intercept = float(values.get("RescaleIntercept", (0.0,))[0])
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        raise ScanRefusedError("rescale slope or intercept not usable")
    return slope, intercept


def voi_of(values: Values, chosen: str, *, signed: bool, little: bool) -> Window | Lut | None:
    """Return the VOI LUT or window to apply, or None to display all values.

    A file may hold several. They are counted from 0, lookup tables before windows.

    Args:
        values: attributes of the frame.
        chosen: number of a lookup table or window, or `none`.
        signed: whether input values may be negative.
        little: whether the file is little-endian.

    Raises:
        ScanRefusedError: the chosen lookup table or window does not exist or is invalid.
    """
    if chosen == "none":
        return None
    number = int(chosen)
    tables = values.get("VOILUTSequence") or ()
    if number < len(tables):
        return lut_of(tables[number], signed=signed, little=little)
    pairs = list(zip(values.get("WindowCenter", ()), values.get("WindowWidth", ()), strict=False))
    if number >= len(tables) + len(pairs):
        if number:
            raise ScanRefusedError("the chosen window is not in the file")
        return None
    center, width = pairs[number - len(tables)]
    function = str(values.get("VOILUTFunction", "")).upper() or "LINEAR"
    if function not in {"LINEAR", "LINEAR_EXACT", "SIGMOID"}:
        raise ScanRefusedError("VOI LUT function not supported")
    # A linear window needs a width of at least 1, the others more than 0 (PS3.3 C.11.2.1.2 and C.11.2.1.3).
    if not np.isfinite([center, width]).all() or width <= 0 or (function == "LINEAR" and width < 1):
        return None
    return Window(float(center), float(width), function)
