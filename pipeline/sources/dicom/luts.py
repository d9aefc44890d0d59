"""Lookup tables of a DICOM file (PS3.3 C.11.1, C.11.2, C.11.6), and which VOI LUT or window applies."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanRefusedError
from pipeline.sources.dicom.header import Values

Numbers = npt.NDArray[np.float64]


class Window(NamedTuple):
    """A VOI window: centre, width, and function `LINEAR`, `LINEAR_EXACT` or `SIGMOID`."""

    center: float
    width: float
    function: str

    @property
    def edges(self) -> tuple[float, float]:
        """The values that become black and white; of a sigmoid, where it leaves 0.12 and 0.88."""
        if self.function == "LINEAR":
            return self.center - 0.5 - (self.width - 1) / 2, self.center - 0.5 + (self.width - 1) / 2
        return self.center - self.width / 2, self.center + self.width / 2

    def levels(self, values: Numbers) -> Numbers:
        """Return values on the scale from 0, black, to 1, white (PS3.3 C.11.2.1.2 and C.11.2.1.3)."""
        if self.function == "SIGMOID":
            slope = np.clip(-4.0 * (values - self.center) / self.width, -700.0, 700.0)
            return 1.0 / (1.0 + np.exp(slope))
        low, high = self.edges
        if high == low:
            return (values > low).astype(np.float64)
        return np.clip((values - low) / (high - low), 0.0, 1.0)


class Lut(NamedTuple):
    """A lookup table.

    Attributes:
        first: the value that the first entry stands for.
        entries: (N,) values from 0 to `top`.
        top: the largest value by the number of bits an entry has.
    """

    first: int
    entries: Numbers
    top: float

    def look_up(self, values: Numbers) -> Numbers:
        """Return the entries of values; beyond both ends, the first and the last one (PS3.3 C.11.1.1)."""
        places = np.clip(np.rint(values) - self.first, 0, len(self.entries) - 1)
        return self.entries[places.astype(np.int64)]


def lut_of(item: Any, *, signed: bool, little: bool) -> Lut:
    """Return a lookup table of a sequence's item.

    Args:
        item: a data set with LUT descriptor and LUT data.
        signed: whether the values that are looked up may be negative.
        little: whether the file is little-endian.

    Raises:
        ScanRefusedError: no descriptor, no data, or they contradict each other.
    """
    try:
        count, first, bits = (int(number) for number in item.LUTDescriptor)
        count = count & 0xFFFF or 0x10000
        if signed and first > 0x7FFF:
            first -= 0x10000
        entries = lut_entries(item.LUTData, count, little=little)
    # pydicom raises many kinds on broken attributes (AttributeError, ValueError, struct.error, ...).
    except Exception as error:
        raise ScanRefusedError("lookup table missing or corrupt") from error
    if not 8 <= bits <= 16:
        raise ScanRefusedError("lookup table missing or corrupt")
    # Some files name fewer bits than their entries have.
    bits = max(bits, int(entries.max()).bit_length())
    return Lut(first, entries.astype(np.float64), float((1 << bits) - 1))


def lut_entries(data: Any, count: int, *, little: bool) -> npt.NDArray[np.integer]:
    """Return the entries of a table, whether they are words, bytes, or bytes packed into words.

    Raises:
        ValueError: another number of entries.
    """
    if not isinstance(data, bytes):
        words = np.atleast_1d(np.asarray(data, dtype=np.int64)) & 0xFFFF
        if len(words) == count:
            return words
        data = words.astype("<u2" if little else ">u2").tobytes()
    if len(data) == 2 * count:
        return np.frombuffer(data, dtype="<u2" if little else ">u2")
    if len(data) != count + count % 2:
        raise ValueError("another number of entries")
    if not little:
        data = np.frombuffer(data, dtype=">u2").astype("<u2").tobytes()
    return np.frombuffer(data, dtype=np.uint8)[:count]


def rescale_of(values: Values) -> tuple[float, float]:
    """Return rescale slope and intercept.

    Raises:
        ScanRefusedError: they are not finite, or the slope is 0.
    """
    slope, intercept = (float(values.get(key, (default,))[0]) for key, default in _RESCALE)
    if not np.isfinite([slope, intercept]).all() or slope == 0:
        raise ScanRefusedError("rescale slope or intercept not usable")
    return slope, intercept


_RESCALE = (("RescaleSlope", 1.0), ("RescaleIntercept", 0.0))


def voi_of(values: Values, chosen: str, *, signed: bool, little: bool) -> Window | Lut | None:
    """Return the VOI LUT or window that applies, or None: all values are shown.

    A file may offer several; they are counted from 0 on, tables before windows.

    Args:
        values: attributes of the frame.
        chosen: number of the wanted one, or `none`.
        signed: whether the values that it is applied to may be negative.
        little: whether the file is little-endian.

    Raises:
        ScanRefusedError: there is no such table or window, or it cannot be read.
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
