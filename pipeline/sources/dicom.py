"""DICOM files: decoded with pydicom by allow-list, with LUTs, window and photometric sense applied."""

from __future__ import annotations

import functools
import hashlib
import io
import warnings
import zlib
from collections.abc import Iterator
from typing import Any

from pipeline.errors import ScanRefusedError
from pipeline.sources.base import Scan, ScanTask, check_size, sex_code
from pipeline.sources.dicom_pixels import Values, presentation
from pipeline.sources.stores import MAX_FILE_BYTES

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

_NOT_SHARED = {"SpecificCharacterSet", "PatientSex", "PatientAge"}
"""Never kept from one file to the next: the patient's own, and what changes how other values are read."""
_SHARED_BYTES = 64

_MODALITIES = {"CR", "DX", "MG", "RF", "XA", "RG", "CT", "MR", "US", "PX", "IO", "OT", "NM", "PT", "SC"}
_VIEWS = {"AP", "PA", "LL", "RL", "RLD", "LLD", "RLO", "LLO", "LATERAL", "LAT"}
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_DIRECTORY_CLASS = "1.2.840.10008.1.3.10"


def read(task: ScanTask, data: bytes) -> Iterator[Scan]:
    """Yield the one scan of a single-frame grey DICOM image.

    Applied in the order of the standard (PS3.3 C.11, PS3.4 N.2): Modality LUT or rescale, VOI LUT or window,
    then inversion for MONOCHROME1 or an INVERSE presentation shape.

    Raises:
        ScanRefusedError: not DICOM, no image, colour, several frames, too large, corrupt, or compressed in
            a way that no installed decoder reads.
    """
    digest = hashlib.sha256(data).hexdigest()
    with warnings.catch_warnings():
        # pydicom's warnings quote header values; the reasons of refusal say what matters.
        warnings.simplefilter("ignore")
        try:
            dataset, values = _parse(data, task.rule.patient_tag)
            _refuse_other_objects(dataset, values)
            pixels = presentation(dataset, values)
            found = _attributes(values, task)
        except ScanRefusedError:
            raise
        # pydicom raises many kinds on broken files (InvalidDicomError, AttributeError, struct.error, ...).
        except Exception as error:
            raise ScanRefusedError("corrupt DICOM file") from error
    yield Scan(pixels=pixels, value_range=None, sha256=digest, **found)


def read_patient(task: ScanTask, data: bytes) -> str | None:
    """Return the value of the manifest's patient tag, or None if it is absent or empty.

    Raises:
        ScanRefusedError: not a readable DICOM file.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            _, values = _parse(data, task.rule.patient_tag)
            return _patient(values, task.rule.patient_tag) or None
        except ScanRefusedError:
            raise
        except Exception as error:
            raise ScanRefusedError("corrupt DICOM file") from error


def _patient(values: Values, keyword: str) -> str:
    return str(values.get(keyword) or "").strip()


def _parse(data: bytes, patient_tag: str) -> tuple[Any, Values]:
    """Return the parsed data set and the values of the wanted keywords that are present in it."""
    import pydicom
    from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if data[128:132] != b"DICM" and not _looks_headless(data):
        raise ScanRefusedError("not a DICOM file")
    _refuse_inflation(data)
    wanted = _wanted(patient_tag)
    dataset = pydicom.dcmread(io.BytesIO(data), force=True, specific_tags=list(wanted))
    if "TransferSyntaxUID" not in dataset.file_meta:
        implicit, little = dataset.original_encoding
        if not little:
            raise ScanRefusedError("no transfer syntax")
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    # One pass over what is there: looking up a keyword in a data set costs as much as decoding a small image.
    # As plain numbers: tags compare in Python code, dozens of times a file.
    present = ((int(tag), tag) for tag in list(dataset.keys()))
    return dataset, {
        wanted[number]: _value(dataset, tag, number) for number, tag in present if number in wanted
    }


def _value(dataset: Any, tag: Any, number: int) -> Any:
    """Return an element's value; what most files of an archive say alike is converted once."""
    vr = _shared_types().get(number)
    if vr is not None:
        element = dataset.get_item(tag)
        # A type that the file gives otherwise than the dictionary is left to the data set to interpret.
        if element.is_raw and element.VR in (None, vr) and 0 < len(element.value or b"") <= _SHARED_BYTES:
            return _converted(number, vr, element.value, element.is_implicit_VR, element.is_little_endian)
    return dataset[tag].value


@functools.lru_cache(maxsize=4096)
def _converted(number: int, vr: str, value: bytes, implicit: bool, little: bool) -> Any:
    from pydicom.dataelem import RawDataElement, convert_raw_data_element
    from pydicom.tag import Tag

    return convert_raw_data_element(
        RawDataElement(Tag(number), vr, len(value), value, 0, implicit, little)
    ).value


@functools.cache
def _shared_types() -> dict[int, str]:
    """Return tag -> VR of the attributes whose few values recur: numbers and codes, nothing of a patient."""
    from pydicom.datadict import dictionary_VR

    found = {number: dictionary_VR(number) for number, word in _wanted("").items() if word not in _NOT_SHARED}
    return {number: vr for number, vr in found.items() if vr in {"US", "CS", "DS", "IS", "UI"}}


def _refuse_inflation(data: bytes) -> None:
    """Refuse a deflated data set that would unpack beyond the largest file (PS3.5 A.5)."""
    if _DEFLATED not in data[132:2048] or data[132:136] != b"\x02\x00\x00\x00":
        return
    start = 144 + int.from_bytes(data[140:144], "little")
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    unpacker.decompress(data[start:], MAX_FILE_BYTES)
    if unpacker.unconsumed_tail:
        raise ScanRefusedError("file too large")


@functools.cache
def _wanted(patient_tag: str) -> dict[int, str]:
    """Return tag -> keyword of all that is parsed."""
    from pydicom.tag import Tag

    return {int(Tag(word)): word for word in (*_PIXEL_KEYWORDS, *_KEPT_KEYWORDS, patient_tag) if word}


def _looks_headless(data: bytes) -> bool:
    """Tell whether bytes without preamble may start with a DICOM element of a low group (2 or 8)."""
    if data[:4] == b"DICM":
        return True
    return len(data) > 16 and data[:2] in {b"\x02\x00", b"\x08\x00"} and data[3] == 0


def _refuse_other_objects(dataset: Any, values: Values) -> None:
    classes = {str(values.get("SOPClassUID", "")), str(dataset.file_meta.get("MediaStorageSOPClassUID", ""))}
    if _DIRECTORY_CLASS in classes:
        raise ScanRefusedError("a DICOM directory, not an image")
    if "PixelData" not in values:
        raise ScanRefusedError("a DICOM object without pixels")
    if "Rows" not in values or "Columns" not in values:
        raise ScanRefusedError("image size missing")
    check_size(int(values["Rows"]), int(values["Columns"]))
    if int(values.get("NumberOfFrames") or 1) != 1:
        raise ScanRefusedError("several frames")
    photometric = str(values.get("PhotometricInterpretation", "")).strip()
    if int(values.get("SamplesPerPixel") or 1) != 1 or photometric not in {"MONOCHROME1", "MONOCHROME2"}:
        raise ScanRefusedError("colour image")


def _attributes(values: Values, task: ScanTask) -> dict[str, Any]:
    modality = str(values.get("Modality", "")).strip().upper()
    spacing, aspect = _spacing(values)
    view = str(values.get("ViewPosition", "") or "").strip().upper()
    age = _years(str(values.get("PatientAge", "") or ""))
    found: dict[str, Any] = {
        "source_format": f"dicom {modality}" if modality in _MODALITIES else "dicom",
        "spacing_mm": spacing,
        "pixel_aspect": aspect * task.pixel_aspect,
        "view": task.view or (view if view in _VIEWS else ""),
        "sex": task.sex or sex_code(values.get("PatientSex", "")),
        "age_years": task.age_years if task.age_years is not None else age,
    }
    if task.rule.patient_tag:
        found["patient"] = _patient(values, task.rule.patient_tag)
    return found


def _spacing(values: Values) -> tuple[float | None, float]:
    """Return the row spacing in mm and the pixel aspect (width over height)."""
    for keyword in ("PixelSpacing", "ImagerPixelSpacing"):
        pair = values.get(keyword)
        if pair is not None and len(pair) == 2:
            down, across = float(pair[0]), float(pair[1])
            if 0 < down < 100 and 0.1 < across / down < 10:
                return down, across / down
    ratio = values.get("PixelAspectRatio")
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
