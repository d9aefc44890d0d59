"""From stored to shown values: tables, padding, shutters and colours, each against the standard's formula."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydicom.pixels.processing import apply_color_lut, convert_color_space
from pydicom.uid import ExplicitVRBigEndian, RLELossless

from pipeline.errors import ScanRefusedError
from pipeline.sources.base import DicomOptions, ReadRule, Scan, ScanTask
from pipeline.sources.dicom import source as dicom
from pipeline.sources.dicom.shutter import shutter_of
from tests.pipeline.sources.dicom.dicoms import (
    EVERY,
    RAMP,
    colour,
    embedded_overlays,
    header,
    lut,
    shown,
    written,
)

rng = np.random.default_rng(7)


def read(made: Any, **options: Any) -> Scan:
    rule = ReadRule("dicom", "/nowhere", options=DicomOptions(**options))
    return next(dicom.read(ScanTask(rule, "f"), written(made)))


def test_modality_lut_window_and_presentation_lut_follow_one_another() -> None:
    modality, presentation = np.arange(4096)[::-1], np.sqrt(np.linspace(0, 1, 1024)) * 1023
    made = header(
        EVERY,
        ModalityLUTSequence=lut(0, modality, ModalityLUTType="US"),
        WindowCenter=2048.5,
        WindowWidth=2049,
        PresentationLUTSequence=lut(0, presentation, 10),
    )
    windowed = np.clip((4095 - EVERY.astype(float) - 1024) / 2048, 0, 1)
    expected = presentation.astype("<u2")[np.rint(windowed * 1023).astype(int)] / 1023 * 255
    assert np.abs(shown(made) - expected).max() < 1e-9


def test_bits_that_are_not_the_values_own_are_removed() -> None:
    overlaid = embedded_overlays(header(EVERY | 0xF000), 12, 13, 14, 15)
    assert (read(overlaid).pixels == EVERY).all()
    assert (read(header(EVERY << 4, HighBit=15)).pixels == EVERY).all()
    signed = EVERY.astype(np.int16) - 2048
    assert (read(header((signed & 0x0FFF).astype(np.int16), PixelRepresentation=1)).pixels == signed).all()
    assert (read(header(signed << 4, HighBit=15)).pixels == signed).all()


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize(
    "window", [{}, {"WindowCenter": 1250, "WindowWidth": 100}, {"VOILUTFunction": "SIGMOID"}]
)
def test_padding_becomes_the_darkest_value_and_moves_no_other(
    photometric: str, window: dict[str, Any]
) -> None:
    if "VOILUTFunction" in window:
        window = {"WindowCenter": 1000, "WindowWidth": 900, **window}
    image = np.where(np.arange(24).reshape(4, 6) < 6, 800, RAMP // 4 + 900).astype(np.uint16)
    padded = image.copy()
    padded[0], padded[1, 0] = 4000, 3990
    plain = header(image, PhotometricInterpretation=photometric, **window)
    both = header(padded, PhotometricInterpretation=photometric, **window)
    both.PixelPaddingValue, both.PixelPaddingRangeLimit = 4000, 3990
    expected, found = read(plain).pixels, read(both).pixels
    kept = np.ones(image.shape, dtype=bool)
    kept[0], kept[1, 0] = False, False
    assert (found[~kept] == found[kept].min()).all()
    # What lies under the padding has no part in the mirror of MONOCHROME1: distances stay.
    assert np.ptp(found[kept].astype(float) - expected[kept].astype(float)) == 0


def test_a_padding_value_of_another_sign_is_known_by_its_bits() -> None:
    pixels = RAMP.astype(np.int16)
    pixels[0] = -2000
    made = header(pixels, BitsStored=16, HighBit=15)
    made.add_new("PixelPaddingValue", "US", 63536)
    assert read(made).pixels.min() == 600
    assert (read(made).pixels[0] == 600).all()


def test_an_image_of_padding_alone_is_refused() -> None:
    with pytest.raises(ScanRefusedError, match="nothing but padding"):
        read(header(np.full((4, 6), 5, dtype=np.uint16), PixelPaddingValue=5))


RECTANGLE = {
    "ShutterShape": "RECTANGULAR",
    "ShutterLeftVerticalEdge": 11,
    "ShutterRightVerticalEdge": 50,
    "ShutterUpperHorizontalEdge": 5,
    "ShutterLowerHorizontalEdge": 60,
}
CIRCLE = {"ShutterShape": "CIRCULAR", "CenterOfCircularShutter": [30, 40], "RadiusOfCircularShutter": 20}
POLYGON = {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [5, 10, 5, 40, 60, 40, 60, 10]}


def opening(shape: str, row: int, column: int, aspect: float = 1.0) -> bool:
    """Whether a pixel (from 1 on) is open, by the words of PS3.3 C.7.6.11."""
    if shape == "RECTANGULAR":
        return 11 <= column <= 50 and 5 <= row <= 60
    if shape == "CIRCULAR":
        return ((row - 30) / aspect) ** 2 + (column - 40) ** 2 <= 400
    return 10 <= column <= 40 and 5 <= row <= 60


@pytest.mark.parametrize("shutter", [RECTANGLE, CIRCLE, POLYGON], ids=lambda shutter: shutter["ShutterShape"])
@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
def test_what_lies_outside_the_shutter_becomes_the_darkest_value(
    shutter: dict[str, Any], photometric: str
) -> None:
    open_ = np.array(
        [[opening(shutter["ShutterShape"], row + 1, column + 1) for column in range(64)] for row in range(64)]
    )
    pixels = np.where(open_, EVERY // 2 + 500, 4095 * (EVERY % 2)).astype(np.uint16)
    found = read(header(pixels, PhotometricInterpretation=photometric, **shutter)).pixels
    assert (found[~open_] == found[open_].min()).all()
    sense = -1 if photometric == "MONOCHROME1" else 1
    assert np.ptp(found[open_].astype(int) - sense * pixels[open_].astype(int)) == 0


def test_several_shutters_leave_open_what_all_of_them_leave_open() -> None:
    both = {**RECTANGLE, **CIRCLE, "ShutterShape": ["RECTANGULAR", "CIRCULAR", "BITMAP"]}
    open_ = np.array(
        [
            [
                opening("RECTANGULAR", row, column) and opening("CIRCULAR", row, column, 0.5)
                for column in range(1, 65)
            ]
            for row in range(1, 65)
        ]
    )
    found = read(header(EVERY + 7, PixelAspectRatio=[2, 1], **both)).pixels
    assert ((found == found[open_].min()) >= ~open_).all()
    assert (found[open_] == (EVERY + 7)[open_]).all()


def test_a_triangular_shutter_is_cut_along_its_edges() -> None:
    values = {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": (1, 1, 64, 1, 64, 64)}
    outside = shutter_of((64, 64), values)
    row, column = np.mgrid[:64, :64]
    assert outside is not None
    assert outside[column > row + 1].all()
    assert not outside[column < row].any()


@pytest.mark.parametrize(
    "changes",
    [
        {"RadiusOfCircularShutter": None},
        {"CenterOfCircularShutter": [2_000_000_000, 1]},
        {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [1, 2, 3]},
        {"ShutterShape": "POLYGONAL", "VerticesOfThePolygonalShutter": [1] * 4_002},
    ],
)
def test_absurd_shutters_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ScanRefusedError, match="display shutter not usable"):
        read(header(EVERY, **{**CIRCLE, **changes}))


def test_a_shutter_that_hides_everything_is_a_reason() -> None:
    with pytest.raises(ScanRefusedError, match="nothing but padding and shutter"):
        read(header(EVERY, **{**CIRCLE, "CenterOfCircularShutter": [900, 900]}))


GREY_IN_COLOUR = np.repeat(rng.integers(0, 256, (32, 32, 1), dtype=np.uint8), 3, axis=2)
COLOURFUL = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)


def luma(pixels: np.ndarray) -> np.ndarray:
    return np.asarray(Image.fromarray(pixels).convert("L"))


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_FULL_422", "planes", "rle"])
def test_colours_become_their_luma(photometric: str) -> None:
    pixels, changes = COLOURFUL, {}
    if photometric == "planes":
        changes = {"PlanarConfiguration": 1, "PixelData": pixels.transpose(2, 0, 1).tobytes()}
    if photometric in {"YBR_FULL", "YBR_FULL_422"}:
        pixels = convert_color_space(pixels, "RGB", "YBR_FULL")
    data = pixels.tobytes()
    if photometric == "YBR_FULL_422":
        pairs = pixels.reshape(32, 16, 2, 3)
        data = np.stack(
            [pairs[:, :, 0, 0], pairs[:, :, 1, 0], pairs[:, :, 0, 1], pairs[:, :, 0, 2]], -1
        ).tobytes()
    name = photometric if photometric.startswith("YBR") else "RGB"
    made = colour(pixels, name, **{"PixelData": data, **changes})
    if photometric == "rle":
        made.compress(RLELossless)
    scan = read(made, colour="grey")
    assert scan.value_range == (0.0, 255.0)
    assert scan.pixels.dtype == np.uint8
    assert np.abs(scan.pixels.astype(int) - luma(COLOURFUL)).max() <= (1 if "YBR" in photometric else 0)
    with pytest.raises(ScanRefusedError, match="colour image"):
        read(made)


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL"])
def test_a_grey_picture_in_colour_form_is_always_read(photometric: str) -> None:
    pixels = (
        GREY_IN_COLOUR if photometric == "RGB" else convert_color_space(GREY_IN_COLOUR, "RGB", "YBR_FULL")
    )
    found = read(colour(pixels, photometric)).pixels
    assert np.abs(found.astype(int) - GREY_IN_COLOUR[..., 0]).max() <= 1
    wide = GREY_IN_COLOUR.astype(np.uint16) * 257
    assert (read(colour(wide)).pixels == wide[..., 0]).all()


@pytest.mark.parametrize("limit", [7.0, 9.0])
def test_the_limit_of_colour_is_that_of_image_files(limit: float) -> None:
    pixels = np.full((32, 32, 3), 100, dtype=np.uint8)
    pixels[..., 0] += int(limit * 2)  # The mean difference to green, as images.py takes it, is this limit.
    if limit > 8:
        with pytest.raises(ScanRefusedError, match="colour image"):
            read(colour(pixels))
    else:
        assert read(colour(pixels)).pixels.shape == (32, 32)


def test_a_palette_is_applied_before_the_picture_is_judged() -> None:
    indices = rng.integers(0, 256, (16, 16), dtype=np.uint8)
    ramp = np.arange(256)[::-1].astype("<u2") * 257

    def made(**tables: np.ndarray) -> Any:
        palette = {}
        for name, entries in tables.items():
            palette[f"{name}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
            palette[f"{name}PaletteColorLookupTableData"] = entries.astype("<u2").tobytes()
        return header(indices, BitsStored=8, HighBit=7, PhotometricInterpretation="PALETTE COLOR", **palette)

    grey = read(made(Red=ramp, Green=ramp, Blue=ramp))
    assert (grey.pixels == ramp[indices]).all()
    assert grey.value_range == (0.0, 65535.0)
    with pytest.raises(ScanRefusedError, match="colour image"):
        read(made(Red=ramp, Green=ramp, Blue=ramp[::-1]))


def test_palettes_are_read_as_pydicom_reads_them() -> None:
    """Discrete and linear segments, 8-bit tables, and a first index above 0."""
    indices = rng.integers(0, 256, (16, 16), dtype=np.uint8)
    made = header(indices, BitsStored=8, HighBit=7, PhotometricInterpretation="PALETTE COLOR")
    segments = np.array([0, 3, 9, 200, 4000, 1, 97, 65535, 1, 100, 300], dtype="<u2").tobytes()
    for name in ("Red", "Green", "Blue"):
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [200, 20, 16])
        setattr(made, f"Segmented{name}PaletteColorLookupTableData", segments)
    made.set_original_encoding(False, True, None)
    assert (read(made).pixels == apply_color_lut(indices, made)[..., 0]).all()
    for name in ("Red", "Green", "Blue"):
        delattr(made, f"Segmented{name}PaletteColorLookupTableData")
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 8])
        setattr(made, f"{name}PaletteColorLookupTableData", bytes(range(256)))
    assert (read(made).pixels == apply_color_lut(indices, made)[..., 0].astype(np.uint16) * 257).all()


@pytest.mark.parametrize(
    "segments",
    [[1, 256, 9], [0, 0], [2, 1, 0, 0], [0, 3, 1, 2, 3, 1, 65535, 9], [0, 3, 1, 2, 3]],
    ids=["a line from nowhere", "empty", "indirect", "too long", "too short"],
)
def test_absurd_palettes_are_refused(segments: list[int]) -> None:
    made = header(RAMP.astype(np.uint8), BitsStored=8, HighBit=7, PhotometricInterpretation="PALETTE COLOR")
    for name in ("Red", "Green", "Blue"):
        setattr(made, f"{name}PaletteColorLookupTableDescriptor", [256, 0, 16])
        setattr(made, f"Segmented{name}PaletteColorLookupTableData", np.array(segments, "<u2").tobytes())
    with pytest.raises(ScanRefusedError, match="palette missing or corrupt"):
        read(made)


def test_tables_of_a_big_endian_file_are_read_in_its_order() -> None:
    entries = np.sqrt(np.linspace(0, 1, 4096)) * 65535
    made = header(EVERY, VOILUTSequence=lut(0, entries))
    expected = shown(made)
    made.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    made.PixelData = EVERY.astype(">u2").tobytes()
    made["PixelData"].VR = "OW"
    made.VOILUTSequence[0].LUTData = entries.astype("<u2").astype(">u2").tobytes()
    assert (shown(made) == expected).all()
