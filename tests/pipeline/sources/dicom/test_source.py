"""DICOM files: photometric sense, windows, frames, refusals, and no header value but the allow-list."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate_extended, generate_frames
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    RLELossless,
)

from pipeline.errors import ScanRefusedError
from pipeline.sources.base import DicomOptions, ReadRule, Scan, ScanTask
from pipeline.sources.dicom import source as dicom
from tests.pipeline.sources.dicom.dicoms import EVERY, RAMP, header, written


def task(tag: str = "PatientID", **options: Any) -> ScanTask:
    return ScanTask(ReadRule("dicom", "/nowhere", patient_tag=tag, options=DicomOptions(**options)), "f")


def read_all(made: Dataset | bytes, tag: str = "PatientID", **options: Any) -> list[Scan]:
    data = made if isinstance(made, bytes) else written(made)
    return list(dicom.read(task(tag, **options), data))


def read(made: Dataset | bytes, tag: str = "PatientID", **options: Any) -> Scan:
    (scan,) = read_all(made, tag, **options)
    return scan


def order(pixels: np.ndarray) -> np.ndarray:
    """Pixels on the scale 0..1, since a scan's values stand on a scale of their own."""
    pixels = pixels.astype(np.float64)
    return (pixels - pixels.min()) / (pixels.max() - pixels.min())


def test_pixels_and_the_allow_list_are_read_and_nothing_else() -> None:
    scan = read(header(ImagerPixelSpacing=[0.2, 0.1]))
    assert (scan.pixels == RAMP).all()
    assert (scan.source_format, scan.attributes) == ("dicom CR", ("F", "40-49", "PA"))
    assert scan.spacing_mm == pytest.approx(0.2)
    assert scan.pixel_aspect == pytest.approx(0.5)
    assert scan.patient == "MRN-7"
    assert "Doe" not in repr(scan)
    assert read(header(), tag="").patient is None
    assert dicom.read_patient(task(), written(header())) == "MRN-7"


def test_monochrome1_and_an_inverse_presentation_shape_turn_bright_to_dense_once() -> None:
    plain = order(RAMP)
    both = header(PhotometricInterpretation="MONOCHROME1", PresentationLUTShape="INVERSE")
    assert np.allclose(order(read(header(PhotometricInterpretation="MONOCHROME1")).pixels), 1 - plain)
    assert np.allclose(order(read(both).pixels), 1 - plain)
    falling = header(RescaleSlope=-2, RescaleIntercept=5, RescaleType="US")
    assert np.allclose(order(read(falling).pixels), 1 - plain)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
def test_rescale_comes_before_the_window_as_pydicom_has_it(function: str, dtype: type[np.generic]) -> None:
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
    assert np.allclose(order(read(made).pixels), order(expected), atol=2e-3)


def test_padding_becomes_the_darkest_image_value() -> None:
    pixels = RAMP.copy() + 10
    pixels[0] = 4000
    made = header(pixels, PixelPaddingValue=4000, PhotometricInterpretation="MONOCHROME1")
    shown = read(made).pixels
    assert (shown[0] == shown[1:].min()).all()
    assert shown[1, 0] == shown.max()


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRBigEndian, RLELossless, JPEG2000Lossless]
)
def test_every_lossless_syntax_gives_the_same_pixels(syntax: UID) -> None:
    made = header(EVERY)
    if syntax in {RLELossless, JPEG2000Lossless}:
        made.compress(syntax)
    else:
        made.file_meta.TransferSyntaxUID = syntax
    if syntax == ExplicitVRBigEndian:
        made.PixelData = EVERY.astype(">u2").tobytes()
        made["PixelData"].VR = "OW"
    assert (read(made).pixels == EVERY).all()


def test_a_file_without_preamble_and_meta_is_read_where_that_is_asked_for() -> None:
    made = header()
    buffer = io.BytesIO()
    bare = Dataset(dict(made.items()))
    pydicom.dcmwrite(buffer, bare, implicit_vr=True, little_endian=True)
    data = buffer.getvalue()
    assert (read(data, headless=True).pixels == RAMP).all()
    with pytest.raises(ScanRefusedError, match="no DICOM preamble; headless files are not asked for"):
        read(data)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"NumberOfFrames": 3}, "several frames"),
        ({"SamplesPerPixel": 3}, "samples per pixel"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "palette missing"),
        ({"PhotometricInterpretation": "HSV"}, "colour model"),
        ({"Rows": 40000, "Columns": 40000}, "too large"),
        ({"PixelData": RAMP.tobytes()[:20]}, "truncated"),
        ({"RescaleSlope": 0, "RescaleIntercept": 1}, "rescale"),
    ],
)
def test_what_is_no_usable_image_is_refused_with_a_short_reason(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ScanRefusedError, match=reason) as caught:
        read(header(**changes))
    assert "Doe" not in str(caught.value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"<html></html>" * 30, "not a DICOM"), (b"\0" * 128 + b"DICM" + b"\xff" * 64, "no file meta")],
)
def test_bytes_that_are_no_dicom_are_refused(data: bytes, reason: str) -> None:
    with pytest.raises(ScanRefusedError, match=reason):
        read(data)


def test_an_object_without_pixels_is_refused() -> None:
    made = header()
    del made.PixelData
    with pytest.raises(ScanRefusedError, match="without pixels"):
        read(made)


THREE = np.stack([RAMP, RAMP + 1, RAMP + 2])


@pytest.mark.parametrize(
    ("frames", "added"), [("first", [0]), ("middle", [1]), ("3", [2]), ("each", [0, 1, 2])]
)
@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless])
def test_the_rule_says_which_frames_are_read(frames: str, added: list[int], syntax: UID) -> None:
    made = header(THREE)
    if syntax == RLELossless:
        made.compress(RLELossless)
    scans = read_all(made, frames=frames)
    assert [int(scan.pixels[0, 0]) for scan in scans] == added
    assert all((scan.pixels == THREE[number]).all() for scan, number in zip(scans, added, strict=True))
    assert [scan.frame for scan in scans] == ([1, 2, 3] if frames == "each" else [None])
    assert {scan.sha256 for scan in scans} == {scans[0].sha256}


@pytest.mark.parametrize(("frames", "reason"), [("refuse", "several frames"), ("4", "frame missing")])
def test_frames_that_the_rule_does_not_choose_are_refused(frames: str, reason: str) -> None:
    with pytest.raises(ScanRefusedError, match=reason):
        read(header(THREE), frames=frames)


def test_frames_are_decoded_one_at_a_time_and_counted_before() -> None:
    made = header(THREE)
    made.compress(RLELossless)
    made.NumberOfFrames = 4
    scans = dicom.read(task(frames="each"), written(made))
    assert [(next(scans).pixels == frame).all() for frame in THREE] == [True] * 3
    with pytest.raises(ScanRefusedError, match="frames missing"):
        next(scans)
    with pytest.raises(ScanRefusedError, match="too many frames"):
        read(header(NumberOfFrames=10_001), frames="each")
    with pytest.raises(ScanRefusedError, match="too many frames"):
        read(header(NumberOfFrames=9_000, Rows=1000, Columns=1000), frames="each")


def test_an_extended_offset_table_leads_to_the_frames() -> None:
    made = header(THREE)
    made.compress(RLELossless)
    frames = list(generate_frames(made.PixelData, number_of_frames=3))
    made.PixelData, made.ExtendedOffsetTable, made.ExtendedOffsetTableLengths = encapsulate_extended(frames)
    made["PixelData"].VR, made["PixelData"].is_undefined_length = "OB", True
    assert (read(made, frames="3").pixels == THREE[2]).all()
    assert [int(scan.pixels[0, 0]) for scan in read_all(made, frames="each")] == [0, 1, 2]


def test_functional_groups_of_a_frame_stand_over_the_shared_ones() -> None:
    def group(**values: Any) -> Dataset:
        made = Dataset()
        for name, attributes in values.items():
            item = Dataset()
            for keyword, value in attributes.items():
                setattr(item, keyword, value)
            setattr(made, name, [item])
        return made

    made = header(np.stack([RAMP, RAMP]), WindowCenter=1, WindowWidth=2)
    made.SharedFunctionalGroupsSequence = [
        group(
            PixelMeasuresSequence={"PixelSpacing": [0.4, 0.2]},
            FrameVOILUTSequence={"WindowCenter": 1000.5, "WindowWidth": 1001},
        )
    ]
    made.PerFrameFunctionalGroupsSequence = [
        group(),
        group(
            FrameVOILUTSequence={"WindowCenter": [0], "WindowWidth": [400], "VOILUTFunction": "LINEAR_EXACT"},
            PixelValueTransformationSequence={"RescaleSlope": 1, "RescaleIntercept": -1000},
        ),
    ]
    first, second = read_all(made, frames="each")
    assert (first.spacing_mm, first.pixel_aspect) == pytest.approx((0.4, 0.5))
    assert (first.pixels == np.clip(RAMP, 500, 1500)).all()
    assert (second.pixels == np.clip(RAMP, 800, 1200)).all()


def test_a_chosen_window_that_is_not_there_is_a_reason() -> None:
    made = header(WindowCenter=[1000.5, 500.5], WindowWidth=[1001, 201])
    assert read(made).pixels.max() == 1500
    assert read(made, window="1").pixels.max() == 600
    assert read(made, window="none").pixels.max() == RAMP.max()
    with pytest.raises(ScanRefusedError, match="the chosen window is not in the file"):
        read(made, window="2")


def test_32_bit_and_floating_point_pixels_are_read() -> None:
    wide = RAMP.astype(np.uint32) * 100_000
    made = header(wide, BitsStored=32, HighBit=31)
    assert (read(made).pixels == wide).all()
    made = header(RAMP, BitsAllocated=32, WindowCenter=1000.5, WindowWidth=1001)
    del made.PixelData
    made.FloatPixelData = RAMP.astype(np.float32).tobytes()
    assert (read(made).pixels == np.clip(RAMP, 500, 1500)).all()
    made.FloatPixelData = np.full(RAMP.shape, np.nan, dtype=np.float32).tobytes()
    with pytest.raises(ScanRefusedError, match="not finite"):
        read(made)
