"""Hostile DICOM files: every error is a short reason, and what is allocated was bounded before."""

from __future__ import annotations

import contextlib
import logging
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    MPEG2MPML,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    RLELossless,
)

from pipeline.errors import ScanRefusedError
from pipeline.sources.base import DicomOptions, ReadRule, ScanTask
from pipeline.sources.dicom import source as dicom
from tests.pipeline.sources.dicom.dicoms import EVERY, RAMP, colour, header, lut, written

SECRETS = ("Doe", "MRN", "2.25", "nowhere")


def read(data: bytes, **options: Any) -> list[Any]:
    rule = ReadRule("dicom", "/nowhere", patient_tag="PatientID", options=DicomOptions(**options))
    return list(dicom.read(ScanTask(rule, "f"), data))


def refusal(data: bytes, **options: Any) -> str:
    with pytest.raises(ScanRefusedError) as caught:
        read(data, **options)
    problem = caught.value.problem
    assert len(problem) < 70
    assert not any(secret in problem for secret in SECRETS)
    return problem


def compressed(frame: bytes, syntax: UID, **changes: Any) -> bytes:
    made = header(RAMP, **changes)
    made.file_meta.TransferSyntaxUID = syntax
    made.PixelData = encapsulate([frame])
    made["PixelData"].VR = "OB"
    made["PixelData"].is_undefined_length = True
    return written(made)


def jpeg(height: int, width: int, components: int = 1) -> bytes:
    frame = struct.pack(">HBHHB", 8 + 3 * components, 8, height, width, components)
    scan = b"\xff\xda\0\x08\1\1\0\0\x3f\0"
    return b"\xff\xd8\xff\xc0" + frame + b"\1\x11\0" * components + scan + b"\xff\xd9"


def jpeg_2000(height: int, width: int) -> bytes:
    return (
        b"\xff\x4f\xff\x51"
        + struct.pack(">HH8IH", 41, 0, width, height, 0, 0, width, height, 0, 0, 1)
        + b"\7\1\1"
    )


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (compressed(jpeg(65_000, 65_000), JPEGBaseline8Bit), "another size"),
        (compressed(jpeg(4, 6, 3), JPEGBaseline8Bit), "number of components"),
        (compressed(jpeg(4, 6), JPEGBaseline8Bit), "compression cannot be decoded"),
        (compressed(jpeg(4, 6)[:-2], JPEGBaseline8Bit), "pixel data truncated"),
        (compressed(jpeg(4, 6)[:9], JPEGBaseline8Bit), "compressed pixels truncated"),
        (compressed(b"\xff\xd8", JPEGBaseline8Bit), "compressed pixels truncated"),
        (compressed(jpeg_2000(2**31, 2**31), JPEG2000Lossless), "another size"),
        (compressed(jpeg_2000(4, 6), JPEG2000Lossless), "pixel data truncated"),
        (compressed(b"\0" * 64, RLELossless), "compression cannot be decoded"),
        (compressed(b"\1\0\0\1\xff", MPEG2MPML), "compression not supported"),
    ],
)  # fmt: skip
def test_compressed_pixels_are_checked_before_they_are_decoded(data: bytes, reason: str) -> None:
    assert reason in refusal(data)


@pytest.mark.parametrize(
    "name",
    [
        "JPEGProcess1T", "JPEGProcess2_4", "JPEGProcess10_12", "JPEGProcess14T",
        "JPEGLSLossless", "JPEG2000Lossless", "RLE",
    ],
)  # fmt: skip
def test_a_truncated_codestream_is_refused_and_not_made_up(data_root: Path, name: str) -> None:
    """Whole fragments, but the encoder stopped half way: libjpeg fills the rest with grey."""
    (path,) = (data_root / "dicom_transfer_syntaxes").glob(f"CTImage.dcm_{name}*")
    made = pydicom.dcmread(path)
    (frame,) = generate_frames(made.PixelData, number_of_frames=1)
    assert read(written(made))
    for length in (len(frame) // 2, len(frame) - 2000):
        made.PixelData = encapsulate([frame[: length // 2 * 2]])
        assert refusal(written(made)) in {"pixel data truncated or corrupt", "compression cannot be decoded"}


def test_a_file_that_ends_inside_a_fragment_is_refused() -> None:
    made = header(EVERY)
    made.compress(RLELossless)
    assert refusal(written(made)[:-3000]) == "pixel data truncated or corrupt"


def test_a_run_beyond_the_image_does_not_end_the_process() -> None:
    """The RLE decoder panics on it: an error that is no `Exception`."""
    image = header(RAMP)
    image.file_meta.TransferSyntaxUID = RLELossless
    for runs in (b"\x81\x07", b"\xe8\x07", b"\x18" + bytes(25), b"\x7f" + bytes(128)):
        segment = runs + bytes(len(runs) % 2)
        offsets = struct.pack("<16I", 2, 64, 64 + len(segment), *[0] * 13)
        image.PixelData = encapsulate([offsets + segment + segment])
        image["PixelData"].VR, image["PixelData"].is_undefined_length = "OB", True
        assert refusal(written(image)) == "compression cannot be decoded"


def test_fragments_are_counted_before_they_are_followed() -> None:
    made = header(RAMP)
    made.file_meta.TransferSyntaxUID = RLELossless
    made.PixelData = b"\xfe\xff\x00\xe0\0\0\0\0" * 300_000
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    assert refusal(written(made)) == "too many fragments"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"Rows": 20_000, "Columns": 20_000}, "image too large"),
        ({"Rows": 0}, "no pixels"),
        ({"BitsAllocated": 12}, "bits allocated"),
        ({"BitsAllocated": 64}, "bits allocated"),
        ({"BitsStored": 17}, "bits stored"),
        ({"HighBit": 40}, "bits stored"),
        ({"NumberOfFrames": -3}, "number of frames"),
        ({"NumberOfFrames": 2_000_000_000}, "several frames"),
        ({"SamplesPerPixel": 60_000}, "samples per pixel"),
        ({"PhotometricInterpretation": "ARGB", "SamplesPerPixel": 4}, "colour model"),
        ({"PhotometricInterpretation": ""}, "photometric interpretation missing"),
        ({"RescaleSlope": "1e999"}, "rescale"),
        ({"VOILUTFunction": "CUBIC", "WindowCenter": 9, "WindowWidth": 9}, "VOI LUT function"),
        ({"ModalityLUTSequence": lut(0, np.arange(9))}, ""),
        ({"ModalityLUTSequence": [Dataset()]}, "lookup table"),
        ({"ModalityLUTSequence": lut(0, np.arange(9), bits=60)}, "lookup table"),
        ({"VOILUTSequence": lut(0, np.arange(9), LUTDescriptor=[800, 0, 16])}, "lookup table"),
        ({"VOILUTSequence": lut(0, np.arange(9), LUTDescriptor=[9, 0])}, "lookup table"),
        ({"PresentationLUTSequence": lut(0, np.arange(1024))}, "Presentation LUT"),
    ],
)  # fmt: skip
def test_absurd_headers_are_refused(changes: dict[str, Any], reason: str) -> None:
    if not reason:
        assert read(written(header(**changes)))
        return
    assert reason in refusal(written(header(**changes)))


def test_a_window_without_meaning_is_ignored() -> None:
    for center, width in [("nan", 5), (5, 0), (5, -3), ("inf", 9), (5, "nan")]:
        (scan,) = read(written(header(WindowCenter=center, WindowWidth=width)))
        assert (scan.pixels == RAMP).all()


def test_sequences_nested_without_end_are_refused() -> None:
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    nested = (struct.pack("<HH2sHI", 0x0008, 0x1140, b"SQ", 0, 0xFFFFFFFF) + item) * 50_000
    data = written(header())
    place = data.index(struct.pack("<HH2s", 0x0010, 0x0010, b"PN"))
    assert refusal(data[:place] + nested + data[place:]) in {
        "corrupt DICOM file",
        "sequences nested too deeply",
    }


def test_a_deflated_data_set_is_unpacked_within_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    made = header(EVERY)
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    assert (read(written(made))[0].pixels == EVERY).all()
    monkeypatch.setattr("pipeline.sources.dicom.deflate.MAX_INFLATED_BYTES", 4096)
    assert refusal(written(made)) == "file too large"
    data = written(made)
    start = len(data) - 200
    assert refusal(data[:start] + b"\xff" * 200) in {"deflated data corrupt", "file too large"}


def test_a_deflated_bomb_behind_a_broken_file_meta_is_not_unpacked() -> None:
    made = header()
    made.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    data = written(made)
    place = data.index(b"UI", 150)
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = packer.compress(bytes(2**20)) + packer.flush()
    assert refusal(data[:place] + b"zz" + data[place + 2 :] + bomb) == "corrupt DICOM file"


@pytest.fixture(scope="module")
def seeds() -> list[bytes]:
    found = []
    for syntax in (None, ExplicitVRBigEndian, RLELossless, DeflatedExplicitVRLittleEndian):
        made = header(EVERY[:8, :8], VOILUTSequence=lut(0, np.arange(64)), ImagerPixelSpacing=[0.2, 0.1])
        if syntax == RLELossless:
            made.compress(RLELossless)
        elif syntax is not None:
            made.file_meta.TransferSyntaxUID = syntax
        if syntax == ExplicitVRBigEndian:
            made["PixelData"].VR = "OW"
        found.append(written(made))
    found.append(written(colour(np.zeros((4, 4, 3), dtype=np.uint8), "YBR_FULL")))
    return found


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_broken_bytes_end_in_a_scan_or_a_reason(data: st.DataObject, seeds: list[bytes]) -> None:
    good = bytearray(data.draw(st.sampled_from(seeds)))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(132, len(good) - 1))
        good[place] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.just(len(good)), st.integers(1, len(good))))
    with contextlib.suppress(ScanRefusedError):
        for scan in read(bytes(good[:cut]), frames="each", headless=True, colour="grey"):
            assert scan.pixels.ndim == 2


def test_no_log_record_or_warning_of_pydicom_gets_out(
    caplog: pytest.LogCaptureFixture, recwarn: pytest.WarningsRecorder
) -> None:
    broken = compressed(jpeg(4, 6), JPEGBaseline8Bit, PatientAge="not an age", PatientID="MRN-7" * 40)
    others = [compressed(jpeg_2000(4, 6), JPEG2000Lossless), compressed(bytes(64), RLELossless)]
    caplog.clear()
    recwarn.clear()
    with caplog.at_level(logging.DEBUG):
        for data in (broken, *others):
            refusal(data)
        level = logging.getLogger("pydicom").level
    assert not caplog.records
    assert not recwarn.list
    assert level < logging.CRITICAL
