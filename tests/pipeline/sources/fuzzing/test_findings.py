"""Defects that damaged files have shown, each by the smallest file that shows it."""

from __future__ import annotations

import gzip
import io
import random
import struct
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from pipeline.errors import ScanRefusedError
from pipeline.scan_attributes import told
from pipeline.sources import nifti
from pipeline.sources.base import DicomOptions, NiftiOptions, ReadRule, Scan, ScanTask
from pipeline.sources.dicom import source as dicom
from pipeline.sources.images import source as images
from pipeline.sources.images.resize import area_average
from tests.pipeline.sources.dicom.bombs_dicom import deflate_bomb, element_bomb
from tests.pipeline.sources.dicom.dicoms import header, lut, written
from tests.pipeline.sources.fuzzing.mutations_dicom import agreed
from tests.pipeline.sources.fuzzing.runner import peak_mib, reset_peak
from tests.pipeline.sources.fuzzing.seeds import dicom_seeds, jpeg_seeds, nifti_seeds, tiff_seeds

READERS = {"dicom": dicom, "images": images, "nifti": nifti}


def read(kind: str, data: bytes) -> Scan:
    options = {"dicom": DicomOptions("first", headless=True), "nifti": NiftiOptions("mean")}
    rule = ReadRule(kind, "", options=options.get(kind))
    (scan,) = READERS[kind].read(ScanTask(rule, "scan"), data)
    return scan


def test_an_age_of_superscript_digits_is_no_age() -> None:
    data = written(header()).replace(b"047Y", b"\xb2\xb2\xb2Y")
    assert told(read("dicom", written(header())).attributes, "age_band") == "40-49"
    assert told(read("dicom", data).attributes, "age_band") == ""


def test_an_aspect_ratio_beyond_any_real_number_is_ignored() -> None:
    data = written(header(PixelAspectRatio=["1", "1111111111"]))
    short = b"IS\x0c\x001\\1111111111"
    assert short in data
    endless = b"IS" + struct.pack("<H", 402) + b"1\\" + b"9" * 400
    assert read("dicom", data.replace(short, endless)).pixel_aspect == 1.0


def test_a_window_that_overflows_with_the_rescale_is_refused() -> None:
    data = written(header(RescaleSlope="1e-32", WindowCenter=40, WindowWidth=400))
    with pytest.raises(ScanRefusedError, match="window"):
        read("dicom", data.replace(b"DS\x06\x001e-32 ", b"DS\x06\x001e-320"))


def test_a_panic_of_the_run_length_decoder_is_a_refusal() -> None:
    made = header(np.zeros((48, 40), np.uint16))
    made.compress(RLELossless)
    data = bytearray(written(made))
    start = data.rfind(b"\xfe\xff\x00\xe0") + 8
    first, second = struct.unpack_from("<2I", data, start + 4)
    # Each run of a segment stands for 128 zeros, far more together than the image has.
    data[start + first : start + second] = b"\x81\0" * ((second - first) // 2)
    with pytest.raises(ScanRefusedError):
        read("dicom", bytes(data))


def test_a_deflated_bomb_is_refused_within_bounds() -> None:
    bomb = next(
        data for number in range(99) if len(data := deflate_bomb(random.Random(number), b"")) > 2_000_000
    )
    reset_peak()
    before = peak_mib()
    with pytest.raises(ScanRefusedError, match="too large"):
        read("dicom", bomb)
    assert peak_mib() - before < 600


def test_a_deflated_file_that_needs_the_tolerant_parser_is_read() -> None:
    made = header(VOILUTSequence=lut(0, np.linspace(0, 65_535, 4096)))
    plain = read("dicom", written(made)).pixels
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert np.array_equal(read("dicom", written(made)).pixels, plain)


def test_millions_of_elements_are_refused() -> None:
    reset_peak()
    before = peak_mib()
    with pytest.raises(ScanRefusedError, match="too many elements"):
        read("dicom", element_bomb(random.Random(5), b""))
    assert peak_mib() - before < 300


def test_a_codestream_far_too_short_for_its_size_is_not_decoded() -> None:
    for name in ("jpeg", "jpeg 2000", "rle"):
        with pytest.raises(ScanRefusedError, match="truncated"):
            read("dicom", agreed(dicom_seeds()[name], 8_000, 8_000))


def test_a_box_of_length_zero_around_a_codestream_keeps_nobody() -> None:
    name = Path(pydicom.__file__).parent / "data" / "test_files" / "GDCMJ2K_TextGBR.dcm"
    data = name.read_bytes()
    start = data.index(b"jP  ") - 4
    damaged = data[: start + 12] + bytes(4) + data[start + 16 :]
    rule = ReadRule("dicom", "", options=DicomOptions("first", colour="grey"))
    (whole,) = dicom.read(ScanTask(rule, "scan"), data)
    (scan,) = dicom.read(ScanTask(rule, "scan"), damaged)
    assert np.array_equal(scan.pixels, whole.pixels)


def test_a_long_chain_of_tiff_pages_is_not_followed() -> None:
    data = tiff_seeds()["raw"]
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    link = start + 2 + 12 * count
    begin = len(data)
    chain = b"".join(struct.pack("<HI", 0, begin + 6 * (page + 1)) for page in range(200_000))
    with pytest.raises(ScanRefusedError, match="several frames"):
        read("images", data[:link] + struct.pack("<I", begin) + data[link + 4 :] + chain)


def test_a_jpeg_of_hundreds_of_scans_is_refused() -> None:
    data = jpeg_seeds()["progressive grey"]
    last = data.rfind(b"\xff\xda")
    with pytest.raises(ScanRefusedError, match="too many scans"):
        read("images", data[:last] + data[last:-2] * 300 + b"\xff\xd9")


def test_an_image_of_a_few_endless_rows_is_refused() -> None:
    buffer = io.BytesIO()
    Image.fromarray(np.zeros((2, 70_000), np.uint8)).save(buffer, "PNG")
    with pytest.raises(ScanRefusedError, match="too large"):
        read("images", buffer.getvalue())


@pytest.mark.parametrize("mode", ["1", "LA", "P", "RGB", "RGBA"])
def test_grey_content_in_another_form_has_the_grey_values(mode: str) -> None:
    grey = Image.fromarray(np.random.default_rng(2).integers(0, 256, (300, 200)).astype(np.uint8))
    if mode == "1":
        grey = grey.point(lambda value: 255 * (value > 127))
    buffer = io.BytesIO()
    grey.convert(mode).save(buffer, "PNG")
    assert np.array_equal(read("images", buffer.getvalue()).pixels, np.asarray(grey))


def test_resizing_a_large_image_needs_no_second_one() -> None:
    pixels = np.ones((6_000, 5_000), np.uint8)
    reset_peak()
    before = peak_mib()
    assert (area_average(pixels, 32, 32) == 1).all()
    assert peak_mib() - before < 100


def test_a_gzip_bomb_behind_a_small_volume_is_refused_within_bounds() -> None:
    plain = nifti_seeds()["volume"]
    bomb = gzip.compress(plain, mtime=0) + gzip.compress(bytes(2**23), mtime=0) * 80
    reset_peak()
    before = peak_mib()
    with pytest.raises(ScanRefusedError, match="too large"):
        read("nifti", bomb)
    assert peak_mib() - before < 100


def test_a_header_that_promises_a_volume_takes_no_room_for_it() -> None:
    head = nibabel.Nifti1Header()
    head.set_data_shape((512, 512, 400))
    head.set_data_dtype(np.int16)
    head["magic"], head["vox_offset"] = b"n+1", 352
    reset_peak()
    before = peak_mib()
    with pytest.raises(ScanRefusedError, match="corrupt"):
        read("nifti", gzip.compress(head.binaryblock + bytes(2_000), mtime=0))
    assert peak_mib() - before < 100


@pytest.mark.parametrize("kind", ["complex64", "rgb"])
def test_values_that_are_no_real_numbers_are_refused(kind: str) -> None:
    colour = np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")])
    volume = np.zeros((4, 1, 4), dtype=colour if kind == "rgb" else kind)
    with pytest.raises(ScanRefusedError, match="unsupported"):
        read("nifti", nibabel.Nifti1Image(volume, np.eye(4)).to_bytes())


def test_an_odd_header_is_not_told_on_the_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(nifti_seeds()["flat"])
    struct.pack_into("<h", data, 70, 4176)
    struct.pack_into("<f", data, 76, -7.0)
    with pytest.raises(ScanRefusedError):
        read("nifti", bytes(data))
    assert capfd.readouterr().err == ""
