"""DICOM files: decoded with pydicom by allow-list, with LUTs, window and photometric sense applied."""

from __future__ import annotations

import functools
import hashlib
import io
import warnings
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.errors import ScanRefusedError
from pipeline.sources.base import Scan, ScanTask, check_size, read_bounded, sex_code

_PIXEL_KEYWORDS = (
    "SOPClassUID", "SamplesPerPixel", "PhotometricInterpretation", "PlanarConfiguration", "NumberOfFrames",
    "Rows", "Columns", "BitsAllocated", "BitsStored", "HighBit", "PixelRepresentation", "PixelData",
    "ExtendedOffsetTable", "ExtendedOffsetTableLengths", "PixelPaddingValue", "PixelPaddingRangeLimit",
    "ModalityLUTSequence", "RescaleSlope", "RescaleIntercept", "RescaleType",
    "VOILUTSequence", "WindowCenter", "WindowWidth", "VOILUTFunction",
    "PresentationLUTSequence", "PresentationLUTShape", "SpecificCharacterSet",
)  # fmt: skip
_KEPT_KEYWORDS = (
    "Modality", "ViewPosition", "PixelSpacing", "ImagerPixelSpacing", "PixelAspectRatio",
    "PatientSex", "PatientAge",
)  # fmt: skip
"""All that is ever taken from a header; every other attribute is not even parsed."""

_MODALITIES = {"CR", "DX", "MG", "RF", "XA", "RG", "CT", "MR", "US", "PX", "IO", "OT", "NM", "PT", "SC"}
_VIEWS = {"AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO", "LATERAL", "LAT"}
_LARGEST_TABLE = 2**17
_DIRECTORY_CLASS = "1.2.840.10008.1.3.10"


def read(task: ScanTask) -> Scan:
    """Decode a single-frame grey DICOM image.

    Applied in the order of the standard (PS3.3 C.11, PS3.4 N.2): Modality LUT or rescale, VOI LUT or window,
    then inversion for MONOCHROME1 or an INVERSE presentation shape.

    Raises:
        ScanRefusedError: not DICOM, no image, colour, several frames, too large, corrupt, or compressed in
            a way that no installed decoder reads.
    """
    data = read_bounded(task.rule.root, task.name)
    digest = hashlib.sha256(data).hexdigest()
    with warnings.catch_warnings():
        # pydicom's warnings quote header values; the reasons of refusal say what matters.
        warnings.simplefilter("ignore")
        try:
            header = _parse(data, task.rule.patient_tag)
            _refuse_other_objects(header)
            pixels = _presentation(header)
            found = _attributes(header, task)
        except ScanRefusedError:
            raise
        # pydicom raises many kinds on broken files (InvalidDicomError, AttributeError, struct.error, ...).
        except Exception as error:
            raise ScanRefusedError("corrupt DICOM file") from error
    return Scan(pixels=pixels, value_range=None, sha256=digest, **found)


def read_patient(task: ScanTask) -> str | None:
    """Return the value of the manifest's patient tag, or None if it is absent or empty.

    Raises:
        ScanRefusedError: not a readable DICOM file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            header = _parse(read_bounded(task.rule.root, task.name), task.rule.patient_tag)
            return _patient(header, task.rule.patient_tag) or None
        except ScanRefusedError:
            raise
        except Exception as error:
            raise ScanRefusedError("corrupt DICOM file") from error


def _patient(header: Any, keyword: str) -> str:
    return str(header.get(keyword, "") or "").strip()


def _parse(data: bytes, patient_tag: str) -> Any:
    import pydicom
    from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, UID

    if data[128:132] != b"DICM" and not _looks_headless(data):
        raise ScanRefusedError("not a DICOM file")
    header = pydicom.dcmread(io.BytesIO(data), force=True, specific_tags=_wanted(patient_tag))
    if "TransferSyntaxUID" not in header.file_meta:
        implicit, little = header.original_encoding
        if not little:
            raise ScanRefusedError("no transfer syntax")
        header.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian if implicit else UID("1.2.840.10008.1.2.1")
        )
    if header.file_meta.TransferSyntaxUID == DeflatedExplicitVRLittleEndian and len(data) > 64 * 2**20:
        raise ScanRefusedError("file too large")
    return header


@functools.cache
def _wanted(patient_tag: str) -> list[Any]:
    from pydicom.tag import Tag

    return [Tag(word) for word in (*_PIXEL_KEYWORDS, *_KEPT_KEYWORDS, patient_tag) if word]


def _looks_headless(data: bytes) -> bool:
    """Tell whether bytes without preamble may start with a DICOM element of a low group (2 or 8)."""
    if data[:4] == b"DICM":
        return True
    return len(data) > 16 and data[:2] in {b"\x02\x00", b"\x08\x00"} and data[3] == 0


def _refuse_other_objects(header: Any) -> None:
    if str(header.get("SOPClassUID", "")) == _DIRECTORY_CLASS or (
        str(header.file_meta.get("MediaStorageSOPClassUID", "")) == _DIRECTORY_CLASS
    ):
        raise ScanRefusedError("a DICOM directory, not an image")
    if "PixelData" not in header:
        raise ScanRefusedError("a DICOM object without pixels")
    if "Rows" not in header or "Columns" not in header:
        raise ScanRefusedError("image size missing")
    check_size(int(header.Rows), int(header.Columns))
    if int(header.get("NumberOfFrames", 1) or 1) != 1:
        raise ScanRefusedError("several frames")
    photometric = str(header.get("PhotometricInterpretation", "")).strip()
    if int(header.get("SamplesPerPixel", 1) or 1) != 1 or photometric not in {"MONOCHROME1", "MONOCHROME2"}:
        raise ScanRefusedError("colour image")


def _decode(header: Any) -> npt.NDArray[np.generic]:
    try:
        stored = header.pixel_array
    except (RuntimeError, NotImplementedError) as error:
        known = header.file_meta.TransferSyntaxUID.is_compressed
        raise ScanRefusedError("compression cannot be decoded" if known else "corrupt pixels") from error
    except (ValueError, AttributeError, EOFError, OSError, IndexError) as error:
        raise ScanRefusedError("pixel data truncated or corrupt") from error
    if stored.ndim != 2:
        raise ScanRefusedError("not a single grey image")
    return stored


def _presentation(header: Any) -> npt.NDArray[np.float32]:
    """Return pixels as they are meant to be seen: float32, bright = dense, full stored precision."""
    stored = _decode(header)
    padding = _padding_range(header)
    pixels = _shown_linear(header, stored) if _is_linear(header) else _shown_by_tables(header, stored)
    if str(header.PhotometricInterpretation).strip() == "MONOCHROME1" or _is_inverse(header):
        np.negative(pixels, out=pixels)
    if padding is not None:
        empty = (stored >= padding[0]) & (stored <= padding[1])
        if empty.any() and not empty.all():
            pixels[empty] = pixels[~empty].min()
    return pixels


def _is_linear(header: Any) -> bool:
    """Tell whether rescale and window are all that lies between stored and shown values."""
    tables = ("ModalityLUTSequence", "VOILUTSequence", "PresentationLUTSequence")
    function = str(header.get("VOILUTFunction", "") or "LINEAR").strip().upper()
    return not any(header.get(name) for name in tables) and function in {"LINEAR", "LINEAR_EXACT"}


def _shown_linear(header: Any, stored: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Rescale and clip to the window (PS3.3 C.11.2.1.2); what scale it is shown on does not matter here."""
    slope, intercept = float(header.get("RescaleSlope", 1) or 1), float(header.get("RescaleIntercept", 0) or 0)
    pixels = stored.astype(np.float32)
    if not np.isfinite([slope, intercept]).all():
        raise ScanRefusedError("pixel values are not finite")
    if slope != 1:
        pixels *= np.float32(slope)
    if intercept:
        pixels += np.float32(intercept)
    if _has_voi(header):
        center, width = _first(header.WindowCenter), _first(header.WindowWidth)
        if str(header.get("VOILUTFunction", "") or "").strip().upper() != "LINEAR_EXACT":
            center, width = center - 0.5, max(width - 1.0, 1e-3)
        np.clip(pixels, center - width / 2, center + width / 2, out=pixels)
    if not np.isfinite(pixels).all():
        raise ScanRefusedError("pixel values are not finite")
    return pixels


def _shown_by_tables(header: Any, stored: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """Apply lookup tables and sigmoid windows with pydicom.

    Each step maps a stored value to one value whatever its neighbours are, so the chain is worked out once
    for each value that occurs and looked up for the pixels.
    """
    from pydicom.pixels import apply_modality_lut, apply_presentation_lut, apply_voi_lut

    low, high = int(stored.min()), int(stored.max())
    short = stored.dtype.kind in "iu" and high - low < _LARGEST_TABLE
    values = np.arange(low, high + 1, dtype=np.int64).astype(stored.dtype)[None] if short else stored
    shown = apply_modality_lut(values, header)
    if _has_voi(header):
        shown = apply_voi_lut(shown, header)
    if "PresentationLUTSequence" in header:
        shown = apply_presentation_lut(shown, header)
    shown = np.array(shown, dtype=np.float32)
    if not np.isfinite(shown).all():
        raise ScanRefusedError("pixel values are not finite")
    return np.take(shown[0], stored.astype(np.int64) - low) if short else shown


def _is_inverse(header: Any) -> bool:
    return str(header.get("PresentationLUTShape", "")).strip() == "INVERSE"


def _has_voi(header: Any) -> bool:
    if header.get("VOILUTSequence"):
        return True
    if header.get("WindowWidth") is None or header.get("WindowCenter") is None:
        return False
    # A linear window needs a width of at least 1 (PS3.3 C.11.2.1.2).
    return _first(header.WindowWidth) >= 1 and np.isfinite(_first(header.WindowCenter))


def _first(value: Any) -> float:
    """Return a number, or the first of several (a header may offer several windows)."""
    return float(value[0] if hasattr(value, "__getitem__") else value)


def _padding_range(header: Any) -> tuple[int, int] | None:
    """Return the lowest and highest stored value that stand for "no image here" (PS3.3 C.7.5.1.1.2)."""
    if header.get("PixelPaddingValue") is None:
        return None
    first = int(header.PixelPaddingValue)
    second = int(header.get("PixelPaddingRangeLimit", first))
    return min(first, second), max(first, second)


def _attributes(header: Any, task: ScanTask) -> dict[str, Any]:
    modality = str(header.get("Modality", "")).strip().upper()
    spacing, aspect = _spacing(header)
    view = str(header.get("ViewPosition", "") or "").strip().upper()
    age = _years(str(header.get("PatientAge", "") or ""))
    found: dict[str, Any] = {
        "source_format": f"dicom {modality}" if modality in _MODALITIES else "dicom",
        "spacing_mm": spacing,
        "pixel_aspect": aspect * task.pixel_aspect,
        "view": view if view in _VIEWS else "",
        "sex": task.sex or sex_code(header.get("PatientSex", "")),
        "age_years": task.age_years if task.age_years is not None else age,
    }
    if task.rule.patient_tag:
        found["patient"] = _patient(header, task.rule.patient_tag)
    return found


def _spacing(header: Any) -> tuple[float | None, float]:
    """Return the row spacing in mm and the pixel aspect (width over height)."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        pair = header.get(keyword)
        if pair is not None and len(pair) == 2:
            down, across = float(pair[0]), float(pair[1])
            if 0 < down < 100 and 0.1 < across / down < 10:
                return down, across / down
    ratio = header.get("PixelAspectRatio")
    if ratio is not None and len(ratio) == 2:
        vertical, horizontal = float(ratio[0]), float(ratio[1])
        if vertical > 0 and 0.1 < horizontal / vertical < 10:
            return None, horizontal / vertical
    return None, 1.0


def _years(text: str) -> float | None:
    """Return the years of a DICOM age string (PS3.5 AS: nnnD, nnnW, nnnM, nnnY)."""
    text = text.strip().upper()
    per_year = {"D": 365.25, "W": 52.18, "M": 12.0, "Y": 1.0}
    if len(text) != 4 or not text[:3].isdigit() or text[3] not in per_year:
        return None
    return int(text[:3]) / per_year[text[3]]
