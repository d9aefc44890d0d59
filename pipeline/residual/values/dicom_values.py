"""Identifying values of a DICOM file: every element at every depth, by its value representation.

The identifying values are those of the Basic Application Level Confidentiality Profile (DICOM PS3.15,
Annex E) and more, because an output must not contain anything from a header:

- person names (PN), whole and in parts, of patients, physicians and operators;
- texts (LO, SH, LT, ST, UT, UC, UR) and application entities (AE): ids, accession numbers, addresses,
  telephone numbers, comments, descriptions, institutions, stations, and also manufacturers, models and serial
  numbers (the profile keeps those only under the Retain Device Identity option);
- parts of such texts: numbers, dates, streets, words of institutions and comments (`text_parts`);
- UIDs (UI), except those registered by the standard under 1.2.840.10008, which name classes and syntaxes;
- dates and date-times (DA, DT) in all usual spellings, times (TM) with a fraction of a second;
- private elements of any kind, and elements of unknown meaning (UN, OB, OW up to 1 MiB) as far as they
  are readable, because vendors write names into them;
- the file meta information.

The following are not identifying and are counted as left out: coded terms (CS) of standard elements, which
come from enumerations; ages (AS) and numbers (IS, DS, binary), which many people share; the implementation
UID and version of the writing software, which any file of the same library has; texts of the character set.
Pixel data are checked by the privacy gate.
"""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from pipeline.errors import ScanRefusedError
from pipeline.residual.search.texts import byte_pieces, moment_pieces, name_pieces, text_pieces
from pipeline.residual.values.source_values import IDENTIFIER, TEXT, UID, FileValues, Piece
from pipeline.residual.values.text_parts import word_pieces

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

_REGISTERED = "1.2.840.10008."
_TEXTS = {"LO", "SH", "LT", "ST", "UT", "UC", "UR", "AE"}
_MOMENTS = {"DA", "TM", "DT"}
_BYTES = {"UN", "OB", "OW", "OB or OW", "OB/OW"}
_PIXELS = {0x7FE00008, 0x7FE00009, 0x7FE00010}
_SOFTWARE = {0x00020012: "software that wrote the file", 0x00020013: "software that wrote the file"}
_CHARACTER_SET = 0x00080005
_IDENTIFIERS = {
    "PatientID", "IssuerOfPatientID", "OtherPatientIDs", "AccessionNumber", "StudyID", "AdmissionID",
    "RequestedProcedureID", "ScheduledProcedureStepID", "PerformedProcedureStepID",
    "FillerOrderNumberImagingServiceRequest", "PlacerOrderNumberImagingServiceRequest", "ServiceEpisodeID",
    "MedicalRecordLocator", "InsurancePlanIdentification", "DeviceSerialNumber", "PatientTelephoneNumbers",
}  # fmt: skip
_LONG_TEXTS = {"LT", "ST", "UT"}
_NAMING = {
    "InstitutionName", "InstitutionAddress", "InstitutionalDepartmentName", "PatientAddress", "StationName",
    "RequestingService", "ResponsibleOrganization", "CurrentPatientLocation", "PatientInstitutionResidence",
    "Occupation", "RegionOfResidence", "IssuerOfPatientID", "AdmittingDiagnosesDescription",
}  # fmt: skip
_MAX_DEPTH = 32
_MAX_ELEMENTS = 1_000_000
_MAX_INFLATED = 512 * 2**20
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_SHORT_MULTIPLICITY = 1000


def dicom_pieces(data: bytes) -> Iterator[Piece]:
    """Yield the values of a DICOM file, element by element.

    Args:
        data: bytes of the file, with or without preamble.

    Raises:
        ScanRefusedError: the file cannot be parsed, or its unpacked size exceeds the limit.
    """
    import pydicom

    if data[128:132] != b"DICM" and not looks_headless(data):
        raise ScanRefusedError("not a DICOM file")
    _refuse_inflation(data)
    with warnings.catch_warnings():
        # pydicom's warnings quote header values.
        warnings.simplefilter("ignore")
        try:
            dataset = pydicom.dcmread(io.BytesIO(data), force=True)
            if not len(dataset):
                raise ScanRefusedError("not a DICOM file")
            budget = [_MAX_ELEMENTS]
            for part in (dataset.file_meta, dataset):
                yield from _pieces(part, 0, budget)
        except ScanRefusedError:
            raise
        # pydicom raises many kinds on broken files (InvalidDicomError, AttributeError, struct.error, ...).
        except Exception as error:
            raise ScanRefusedError("corrupt DICOM file") from error


def looks_headless(data: bytes) -> bool:
    """Return whether bytes without preamble begin with an element of group 2 or 8, in either byte order."""
    little = data[:2] in {b"\x02\x00", b"\x08\x00"} and data[3:4] == b"\0"
    big = data[:3] in {b"\x00\x02\x00", b"\x00\x08\x00"} and data[3:4] != b"\0"
    return len(data) > 16 and (little or big)


def _pieces(dataset: Dataset, depth: int, budget: list[int]) -> Iterator[Piece]:
    if depth > _MAX_DEPTH:
        raise ScanRefusedError("sequences nested too deep")
    for tag in sorted(dataset.keys()):
        number = int(tag)
        if number in _PIXELS:
            continue
        budget[0] -= 1
        if budget[0] < 0:
            raise ScanRefusedError("too many elements")
        raw = dataset.get_item(tag)
        data = raw.value if raw is not None and raw.is_raw and isinstance(raw.value, bytes) else b""
        try:
            element = dataset[tag]
            vr, value = str(element.VR), element.value
            attribute = element.keyword or f"private {element.tag}"
        # A value that is invalid for its type is still text in the file.
        except Exception:
            yield from byte_pieces(f"element {tag}", data)
            continue
        if vr == "SQ":
            for item in value or ():
                yield from _pieces(item, depth + 1, budget)
        else:
            yield from _element(number, attribute, vr, value, data)


def _element(number: int, attribute: str, vr: str, value: Any, raw: bytes) -> Iterator[Piece]:
    private = bool(number >> 16 & 1)
    if number in _SOFTWARE or number == _CHARACTER_SET:
        yield Piece(attribute, TEXT, "", _SOFTWARE.get(number, "character set"))
    elif vr in _BYTES:
        if isinstance(value, bytes):
            yield from byte_pieces(attribute, value)
    elif vr in _TEXTS or vr == "PN" or vr in _MOMENTS or vr == "UI" or (vr == "CS" and private):
        for text in _texts(value):
            yield from _text(attribute, vr, text)
        if not raw.isascii() and b"\x1b" not in raw:
            # The raw bytes, in case the declared character set is wrong.
            for text in raw.decode("latin-1").split("\\"):
                yield from text_pieces(attribute, text)
    elif vr in {"CS", "AS", "IS", "DS"}:
        reason = "coded term (CS)" if vr == "CS" else "number or age (IS, DS, AS)"
        for text in _texts(value):
            yield Piece(attribute, TEXT, text, reason)


def _text(attribute: str, vr: str, text: str) -> Iterator[Piece]:
    if vr == "PN":
        yield from name_pieces(attribute, text)
    elif vr in _MOMENTS:
        yield from moment_pieces(attribute, vr, text)
    elif vr == "UI":
        registered = text.startswith(_REGISTERED)
        yield Piece(attribute, UID, text, "registered UID" if registered else "")
    else:
        kind = IDENTIFIER if attribute in _IDENTIFIERS else TEXT
        yield from text_pieces(attribute, text, kind)
        if vr in _LONG_TEXTS or attribute in _NAMING:
            yield from word_pieces(attribute, text)


def _texts(value: Any) -> list[str]:
    from pydicom.multival import MultiValue

    if value is None:
        return []
    values = value if isinstance(value, MultiValue | list | tuple) else [value]
    return [str(one) for one in values[:_SHORT_MULTIPLICITY]]


def _refuse_inflation(data: bytes) -> None:
    """Refuse a deflated data set whose unpacked size exceeds the largest file size (PS3.5 A.5)."""
    if _DEFLATED not in data[132:2048] or data[132:136] != b"\x02\x00\x00\x00":
        return
    start = 144 + int.from_bytes(data[140:144], "little")
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        unpacker.decompress(data[start:], _MAX_INFLATED)
    except zlib.error as error:
        raise ScanRefusedError("corrupt DICOM file") from error
    if unpacker.unconsumed_tail:
        raise ScanRefusedError("file too large")


def _is_dicom(data: bytes, name: str) -> bool:
    return data[128:132] == b"DICM" or looks_headless(data)


DICOM = FileValues(dicom_pieces, _is_dicom)
