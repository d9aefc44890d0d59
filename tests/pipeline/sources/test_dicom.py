"""DICOM files: photometric sense, windows, padding, refusals, and no header value but the allow-list."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian, RLELossless

from pipeline.errors import ScanRefusedError
from pipeline.sources.base import ReadRule, Scan, ScanTask
from pipeline.sources.reading import read_patient, read_scan

RAMP = np.arange(24, dtype=np.uint16).reshape(4, 6) * 100


def header(pixels: np.ndarray = RAMP, **changes: Any) -> Dataset:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.1"
    meta.MediaStorageSOPInstanceUID = "2.25.1"
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made = Dataset()
    made.file_meta = meta
    made.SOPClassUID, made.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    made.PatientName, made.PatientID, made.PatientAge, made.PatientSex = "Doe^Jane", "MRN-7", "047Y", "F"
    made.Modality, made.ViewPosition = "CR", "PA"
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit = 16, 12, 11
    made.PixelRepresentation = int(pixels.dtype.kind == "i")
    made.PixelData = pixels.tobytes()
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def read(folder: Path, made: Dataset | bytes, tag: str = "PatientID") -> Scan:
    if isinstance(made, bytes):
        (folder / "f").write_bytes(made)
    else:
        made.save_as(folder / "f", enforce_file_format=True)
    return read_scan(task(folder, tag))


def task(folder: Path, tag: str = "PatientID") -> ScanTask:
    return ScanTask(ReadRule("dicom", str(folder), patient_tag=tag), "f")


def order(pixels: np.ndarray) -> np.ndarray:
    """Pixels on the scale 0..1, since a scan's values stand on a scale of their own."""
    pixels = pixels.astype(np.float64)
    return (pixels - pixels.min()) / (pixels.max() - pixels.min())


def test_pixels_and_the_allow_list_are_read_and_nothing_else(tmp_path: Path) -> None:
    scan = read(tmp_path, header(ImagerPixelSpacing=[0.2, 0.1]))
    assert (scan.pixels == RAMP).all()
    assert (scan.source_format, scan.view, scan.sex, scan.age_years) == ("dicom CR", "PA", "F", 47.0)
    assert scan.spacing_mm == pytest.approx(0.2)
    assert scan.pixel_aspect == pytest.approx(0.5)
    assert scan.patient == "MRN-7"
    assert "Doe" not in repr(scan)
    assert read(tmp_path, header(), tag="").patient is None
    assert read_patient(task(tmp_path)) == "MRN-7"


def test_monochrome1_and_an_inverse_presentation_shape_turn_bright_to_dense_once(tmp_path: Path) -> None:
    plain = order(RAMP)
    both = header(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE")
    assert np.allclose(
        order(read(tmp_path, header(PhotometricInterpretation="MONOCHROME1")).pixels), 1 - plain
    )
    assert np.allclose(order(read(tmp_path, both).pixels), 1 - plain)
    falling = header(RescaleSlope=-2, RescaleIntercept=5, RescaleType="US")
    assert np.allclose(order(read(tmp_path, falling).pixels), 1 - plain)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_rescale_comes_before_the_window_as_pydicom_has_it(
    tmp_path: Path, function: str, dtype: type[np.generic]
) -> None:
    pixels = (RAMP.astype(np.int32) - (1000 if dtype is np.int16 else 0)).astype(dtype)
    made = header(
        pixels,
        RescaleSlope=2,
        RescaleIntercept=-100,
        RescaleType="US",
        WindowCenter=[700, 1],
        WindowWidth=[1201, 1],
        VOILUTFunction=function,
    )
    expected = apply_voi_lut(apply_modality_lut(pixels, made), made)
    assert np.allclose(order(read(tmp_path, made).pixels), order(expected), atol=2e-3)


def test_padding_becomes_the_darkest_image_value(tmp_path: Path) -> None:
    pixels = RAMP.copy() + 10
    pixels[0] = 4000
    made = header(pixels, PixelPaddingValue=4000, PhotometricInterpretation="MONOCHROME1")
    shown = read(tmp_path, made).pixels
    assert (shown[0] == shown[1:].min()).all()
    assert shown[1, 0] == shown.max()


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless])
def test_every_lossless_syntax_gives_the_same_pixels(tmp_path: Path, syntax: UID) -> None:
    made = header()
    if syntax == RLELossless:
        made.compress(RLELossless)
    else:
        made.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        made.PixelData = RAMP.astype(">u2").tobytes()
        made["PixelData"].VR = "OW"
    assert (read(tmp_path, made).pixels == RAMP).all()


def test_a_file_without_preamble_and_meta_is_read(tmp_path: Path) -> None:
    made = header()
    buffer = io.BytesIO()
    bare = Dataset(dict(made.items()))
    pydicom.dcmwrite(buffer, bare, implicit_vr=True, little_endian=True)
    assert (read(tmp_path, buffer.getvalue()).pixels == RAMP).all()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"NumberOfFrames": 3}, "several frames"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "colour"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "colour"),
        ({"Rows": 40000, "Columns": 40000}, "too large"),
        ({"PixelData": RAMP.tobytes()[:20]}, "truncated"),
        ({"RescaleSlope": 0, "RescaleIntercept": 1}, "rescale"),
    ],
)
def test_what_is_no_usable_image_is_refused_with_a_short_reason(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    with pytest.raises(ScanRefusedError, match=reason) as caught:
        read(tmp_path, header(**changes))
    assert "Doe" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"<html></html>" * 30, "not a DICOM"), (b"", "empty"), (b"\0" * 128 + b"DICM" + b"\xff" * 64, "DICOM")],
)
def test_bytes_that_are_no_dicom_are_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    with pytest.raises(ScanRefusedError, match=reason):
        read(tmp_path, data)


def test_an_object_without_pixels_is_refused(tmp_path: Path) -> None:
    made = header()
    del made.PixelData
    with pytest.raises(ScanRefusedError, match="without pixels"):
        read(tmp_path, made)


def test_real_files_are_read_or_refused_with_a_reason(data_root: Path) -> None:
    lossless: dict[str, set[bytes]] = {}
    refused = {}
    for folder in ("dicom_transfer_syntaxes", "dicom_xray"):
        rule = ReadRule("dicom", str(data_root / folder))
        for path in sorted((data_root / folder).iterdir()):
            try:
                scan = read_scan(ScanTask(rule, path.name))
            except ScanRefusedError as error:
                refused[path.name] = error.problem
                continue
            key = path.name[:3] if folder == "dicom_xray" else "CT"
            if folder == "dicom_xray" or any(
                word in path.name for word in ("Endian", "Lossless", "Process14", "RLE", "Deflated")
            ):
                lossless.setdefault(key, set()).add(scan.pixels.astype(np.float64).tobytes())
    assert {key: len(found) for key, found in lossless.items()} == {"CT": 1, "RG2": 1, "RG3": 1}
    assert refused["no-pixel-data.dcm"] == "a DICOM object without pixels"
    assert refused["US-YBR_FULL_422-EVRLE.dcm"] == "colour image"
    assert refused["RG2_JPLY"] == "compression cannot be decoded"
