"""Pixels of a DICOM image as they are meant to be seen: decoded, rescaled, windowed, bright = dense."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanRefusedError

_PLAIN_SYNTAXES = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.1.99")
_LARGEST_TABLE = 2**17

Stored = npt.NDArray[Any]
"""Integers or float32; pixels of one image have one of them."""

Values = dict[str, Any]
"""Keyword -> value of the allow-listed attributes that a data set has."""


def _decode(dataset: Any, values: Values) -> Stored:
    plain = _plain_pixels(dataset, values)
    if plain is not None:
        return plain
    try:
        stored = dataset.pixel_array
    except (RuntimeError, NotImplementedError) as error:
        known = dataset.file_meta.TransferSyntaxUID.is_compressed
        raise ScanRefusedError("compression cannot be decoded" if known else "corrupt pixels") from error
    except (ValueError, AttributeError, EOFError, OSError, IndexError) as error:
        raise ScanRefusedError("pixel data truncated or corrupt") from error
    if stored.ndim != 2:
        raise ScanRefusedError("not a single grey image")
    return stored


def _plain_pixels(dataset: Any, values: Values) -> Stored | None:
    """Return unsigned uncompressed little-endian pixels as they lie in the file; None: let pydicom decode.

    pydicom's general path takes longer than all else that happens to a small image.
    """
    if dataset.file_meta.TransferSyntaxUID not in _PLAIN_SYNTAXES or values.get("PixelRepresentation") != 0:
        return None
    bits, used = values.get("BitsAllocated"), values.get("BitsStored")
    if bits not in (8, 16) or used is None or values.get("HighBit") != used - 1:
        return None
    count = values["Rows"] * values["Columns"]
    if len(values["PixelData"]) < count * bits // 8:
        raise ScanRefusedError("pixel data truncated or corrupt")
    stored = np.frombuffer(values["PixelData"], dtype=f"<u{bits // 8}", count=count)
    if used < bits and int(stored.max()) >> used:
        return None  # Something else (an old overlay) lies in the unused bits.
    return stored.reshape(values["Rows"], values["Columns"])


def presentation(dataset: Any, values: Values) -> Stored:
    """Return pixels as they are meant to be seen, bright = dense, in full stored precision.

    The values stand on a scale of their own: only their order and their distances mean something.
    """
    stored = _decode(dataset, values)
    padding = _padding_range(values)
    inverted = str(values["PhotometricInterpretation"]).strip() == "MONOCHROME1" or _is_inverse(values)
    if _is_linear(values):
        slope, intercept = _rescale(values)
        pixels = _windowed(values, stored, slope, intercept)
        inverted ^= slope < 0
    else:
        pixels = _shown_by_tables(dataset, stored)
    if inverted:
        if pixels.dtype.kind == "u":
            # Mirrored about the middle of its own range, so that whole numbers stay whole and in their dtype.
            pixels = pixels.max() - (pixels - pixels.min())
        else:
            pixels = -pixels.astype(np.float32)
    if padding is not None:
        empty = (stored >= padding[0]) & (stored <= padding[1])
        if empty.any() and not empty.all():
            pixels = np.where(empty, pixels[~empty].min(), pixels)
    return pixels


def _is_linear(values: Values) -> bool:
    """Tell whether rescale and window are all that lies between stored and shown values."""
    tables = ("ModalityLUTSequence", "VOILUTSequence", "PresentationLUTSequence")
    function = str(values.get("VOILUTFunction", "") or "LINEAR").strip().upper()
    return not any(values.get(name) for name in tables) and function in {"LINEAR", "LINEAR_EXACT"}


def _rescale(values: Values) -> tuple[float, float]:
    slope, intercept = values.get("RescaleSlope"), values.get("RescaleIntercept")
    numbers = 1.0 if slope is None else float(slope), 0.0 if intercept is None else float(intercept)
    if not np.isfinite(numbers).all() or numbers[0] == 0:
        raise ScanRefusedError("rescale slope or intercept not usable")
    return numbers


def _windowed(values: Values, stored: Stored, slope: float, intercept: float) -> Stored:
    """Clip stored values to the window (PS3.3 C.11.2.1.2), its edges brought to stored units and rounded.

    Rescale and window are straight lines, so beside the clipping they change nothing that matters here.
    """
    if not _has_voi(values):
        return stored
    center, width = _first(values["WindowCenter"]), _first(values["WindowWidth"])
    if str(values.get("VOILUTFunction", "") or "").strip().upper() != "LINEAR_EXACT":
        center, width = center - 0.5, max(width - 1.0, 1.0)
    edges = [(center + sign * width / 2 - intercept) / slope for sign in (-1, 1)]
    low, high = round(min(edges)), round(max(edges))
    lowest, highest = int(stored.min()), int(stored.max())
    if low <= lowest and high >= highest:
        return stored
    if high <= lowest or low >= highest:
        raise ScanRefusedError("window lies outside the pixel values")
    return np.clip(stored, max(low, lowest), min(high, highest))


def _shown_by_tables(dataset: Any, stored: Stored) -> npt.NDArray[np.float32]:
    """Apply lookup tables and sigmoid windows with pydicom.

    Each step maps a stored value to one value whatever its neighbours are, so the chain is worked out once
    for each value that occurs and looked up for the pixels.
    """
    from pydicom.pixels.processing import apply_modality_lut, apply_presentation_lut, apply_voi_lut

    low, high = int(stored.min()), int(stored.max())
    short = stored.dtype.kind in "iu" and high - low < _LARGEST_TABLE
    values = np.arange(low, high + 1, dtype=np.int64).astype(stored.dtype)[None] if short else stored
    shown = apply_modality_lut(values, dataset)
    if _has_voi(dataset):
        shown = apply_voi_lut(shown, dataset)
    if "PresentationLUTSequence" in dataset:
        shown = apply_presentation_lut(shown, dataset)
    shown = np.array(shown, dtype=np.float32)
    if not np.isfinite(shown).all():
        raise ScanRefusedError("pixel values are not finite")
    return np.take(shown[0], stored.astype(np.int64) - low) if short else shown


def _is_inverse(values: Values) -> bool:
    return str(values.get("PresentationLUTShape", "")).strip() == "INVERSE"


def _has_voi(values: Any) -> bool:
    if values.get("VOILUTSequence"):
        return True
    if values.get("WindowWidth") is None or values.get("WindowCenter") is None:
        return False
    # A linear window needs a width of at least 1 (PS3.3 C.11.2.1.2).
    return _first(values["WindowWidth"]) >= 1 and np.isfinite(_first(values["WindowCenter"]))


def _first(value: Any) -> float:
    """Return a number, or the first of several (a header may offer several windows)."""
    return float(value[0] if hasattr(value, "__getitem__") else value)


def _padding_range(values: Values) -> tuple[int, int] | None:
    """Return the lowest and highest stored value that stand for "no image here" (PS3.3 C.7.5.1.1.2)."""
    if values.get("PixelPaddingValue") is None:
        return None
    first = int(values["PixelPaddingValue"])
    second = int(values.get("PixelPaddingRangeLimit", first))
    return min(first, second), max(first, second)
