"""The image pixel module: each of its values against what is stored, and nothing wrapped or read as noise."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate, generate_frames
from pydicom.uid import (
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLSLossless,
    RLELossless,
)

from pipeline.errors import ScanRefusedError
from pipeline.sources.base import BEYOND_BITS, DicomOptions, ReadRule, Scan, ScanTask
from pipeline.sources.dicom import source as dicom
from tests.pipeline.sources.dicom.dicoms import EVERY, RAMP, colour, embedded_overlays, header, written
from tests.pipeline.sources.fuzzing.mutations_dicom import syntax_element

COMPRESSED_AS_NATIVE = "compressed pixels under an uncompressed transfer syntax"


def read(made: Dataset | bytes, **options: Any) -> Scan:
    rule = ReadRule("dicom", "/nowhere", options=DicomOptions(**options))
    data = made if isinstance(made, bytes) else written(made)
    (scan,) = dicom.read(ScanTask(rule, "f"), data)
    return scan


def refusal(made: Dataset | bytes, **options: Any) -> str:
    with pytest.raises(ScanRefusedError) as caught:
        read(made, **options)
    return caught.value.problem


def run_length(**changes: Any) -> Dataset:
    made = header(np.random.default_rng(3).integers(0, 4096, (64, 64)).astype(np.uint16), **changes)
    made.compress(RLELossless)
    return made


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
def test_compressed_pixels_under_a_native_syntax_are_not_shown_as_noise(syntax: UID) -> None:
    made = run_length()
    if syntax == ImplicitVRLittleEndian:
        # Written as it would be read: no value representation, and no length of the pixel data.
        frame = made.PixelData
        made.file_meta.TransferSyntaxUID = syntax
        made.PixelData = b"MARK"
        made["PixelData"].is_undefined_length = False
        data = written(made)
        place = data.rindex(b"MARK")
        data = data[: place - 4] + b"\xff" * 4 + frame + b"\xfe\xff\xdd\xe0" + bytes(4)
    else:
        data = written(made).replace(syntax_element(RLELossless), syntax_element(syntax))
    assert refusal(data) == COMPRESSED_AS_NATIVE


def test_the_tolerant_parser_sees_compressed_pixels_under_a_native_syntax(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from pipeline.sources.dicom.tolerant import parse_with_pydicom

    data = written(run_length()).replace(syntax_element(RLELossless), syntax_element(ExplicitVRLittleEndian))
    monkeypatch.setattr(dicom, "parse", parse_with_pydicom)
    assert refusal(data) == COMPRESSED_AS_NATIVE


def test_items_of_a_known_length_are_no_native_pixels_either() -> None:
    made = run_length()
    for syntax in (ExplicitVRLittleEndian, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian):
        again = header(np.zeros((8, 8), np.uint16), PixelData=made.PixelData)
        again["PixelData"].VR = "OW"
        again.file_meta.TransferSyntaxUID = syntax
        assert refusal(again) == COMPRESSED_AS_NATIVE
    # Pixels that begin with the value of an item's tag are pixels.
    odd = np.full((8, 8), 7, np.uint16)
    odd[0, :2] = 0xFFFE, 0xE000
    assert np.array_equal(read(header(odd, BitsStored=16, HighBit=15)).pixels, odd)


@pytest.mark.parametrize("syntax", [RLELossless, JPEGBaseline8Bit, JPEG2000Lossless, JPEGLSLossless])
def test_native_pixels_under_a_compressed_syntax_are_refused(syntax: UID) -> None:
    data = written(header(EVERY)).replace(syntax_element(ExplicitVRLittleEndian), syntax_element(syntax))
    assert refusal(data) == "compressed pixels not in fragments"


def test_compressed_floating_point_pixels_are_refused() -> None:
    made = run_length(BitsStored=16, HighBit=15)
    (frame,) = generate_frames(made.PixelData, number_of_frames=1)
    del made.PixelData
    made.FloatPixelData = encapsulate([frame])
    assert refusal(made) == "compressed floating-point pixels"


SMOOTH = np.arange(4096, dtype=np.uint16).reshape(64, 64) * 4
"""Values of 14 bits."""


def values(made: Dataset) -> np.ndarray:
    """Return what a file shows without any window, after a check that it is not flagged."""
    scan = read(made)
    assert scan.flags == ()
    return scan.pixels


def flagged(made: Dataset) -> np.ndarray:
    scan = read(made)
    assert scan.flags == (BEYOND_BITS,)
    return scan.pixels


def compressed(made: Dataset, syntax: UID, stored: int) -> Dataset:
    """Return a file that was compressed at all its bits, and says that it has fewer."""
    made.BitsStored, made.HighBit = 16, 15
    made.compress(syntax)
    made.BitsStored, made.HighBit = stored, stored - 1
    return made


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless])
def test_values_of_more_bits_than_stored_are_read_as_they_are_and_flagged(syntax: UID | None) -> None:
    made = header(SMOOTH)
    assert np.array_equal(flagged(made if syntax is None else compressed(made, syntax, 12)), SMOOTH)
    fine = header(EVERY)
    assert np.array_equal(values(fine if syntax is None else compressed(fine, syntax, 12)), EVERY)


@pytest.mark.parametrize("syntax", [None, RLELossless, JPEG2000Lossless])
def test_signed_values_beyond_their_bits_are_read_as_they_are_and_flagged(syntax: UID | None) -> None:
    wide = SMOOTH.astype(np.int16) - 3000
    made = header(wide)
    assert np.array_equal(flagged(made if syntax is None else compressed(made, syntax, 12)), wide)
    narrow = EVERY.astype(np.int16) - 2048
    fine = header(narrow)
    assert np.array_equal(values(fine if syntax is None else compressed(fine, syntax, 12)), narrow)


def test_signed_values_without_copies_of_their_sign_are_read_by_the_standard_and_flagged() -> None:
    signed = EVERY.astype(np.int16) - 2048
    assert np.array_equal(flagged(header(signed, PixelData=(signed & 0xFFF).tobytes())), signed)
    assert np.array_equal(values(header(signed.clip(0), PixelData=signed.clip(0).tobytes())), signed.clip(0))


@pytest.mark.parametrize("sign", [np.uint16, np.int16])
def test_left_aligned_values_are_moved_down_unless_lower_bits_are_set(sign: type[np.generic]) -> None:
    whole = (EVERY << 4).astype(sign)
    assert np.array_equal(values(header(whole, HighBit=15)), whole >> 4)
    # Values of 12 bits, and a header that is wrong about the highest: 16 grey levels would be left of 16.
    assert np.array_equal(flagged(header(EVERY.astype(sign), HighBit=15)), EVERY)
    assert np.array_equal(flagged(header(whole | sign(9), HighBit=15)), whole | sign(9))


def test_overlays_in_the_pixels_words_are_masked_and_other_bits_there_are_not() -> None:
    drawn = EVERY | (EVERY & 3) << 14
    assert np.array_equal(values(embedded_overlays(header(drawn), 14, 15)), EVERY)
    assert np.array_equal(flagged(embedded_overlays(header(drawn), 15)), EVERY | (EVERY & 1) << 14)
    assert np.array_equal(flagged(header(drawn)), drawn)
    low = EVERY << 4 | EVERY & 3
    assert np.array_equal(values(embedded_overlays(header(low, HighBit=15), 0, 1)), EVERY)
    signed = ((EVERY.astype(np.int16) - 2048) & 0xFFF) | (EVERY.astype(np.int16) & 1) << 13
    shown = values(embedded_overlays(header(signed), 13))
    assert np.array_equal(shown, EVERY.astype(np.int16) - 2048)
    # An overlay with data of its own says nothing about the words.
    own = header(drawn)
    own.add_new(0x60000100, "US", 1)
    own.add_new(0x60000102, "US", 15)
    assert np.array_equal(flagged(own), drawn)


def test_run_lengths_keep_their_overlays_apart() -> None:
    drawn = EVERY | (EVERY & 1) << 15
    assert np.array_equal(values(embedded_overlays(compressed(header(drawn), RLELossless, 12), 15)), EVERY)


def test_8_bits_in_swapped_words_do_not_wrap_either() -> None:
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
    made = header(pixels, BitsStored=7, HighBit=6)
    assert np.array_equal(flagged(made), pixels)
    made.file_meta.TransferSyntaxUID = ExplicitVRBigEndian
    made.PixelData = pixels.reshape(-1, 2)[:, ::-1].tobytes()
    made["PixelData"].VR = "OW"
    assert np.array_equal(flagged(made), pixels)


def test_padding_beyond_the_bits_stored_is_padding() -> None:
    pixels = EVERY.copy()
    pixels[0] = 65_535
    shown = flagged(header(pixels, PixelPaddingValue=65_535))
    assert shown.max() == 4095
    assert (shown[0] == 64).all()


def test_colours_beyond_their_bits_are_refused() -> None:
    grey = np.repeat(EVERY[..., None], 3, axis=2)
    assert read(colour(grey, BitsStored=12, HighBit=11)).flags == ()
    assert refusal(colour(grey, BitsStored=10, HighBit=9)) == "values beyond the bits stored"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"PixelRepresentation": 7}, "pixel representation not supported"),
        ({"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7}, "more pixel data than the header says"),
        ({"Rows": 2}, "more pixel data than the header says"),
        ({"PixelData": RAMP.tobytes() * 30}, "more pixel data than the header says"),
        ({"BitsStored": 12, "HighBit": 10}, "bits stored and high bit contradict each other"),
        ({"SamplesPerPixel": 3}, "samples per pixel contradict the photometric interpretation"),
        ({"PlanarConfiguration": 2}, "planar configuration not supported"),
    ],
)  # fmt: skip
def test_a_layout_that_the_pixels_contradict_is_refused(changes: dict[str, Any], reason: str) -> None:
    pixels = np.tile(RAMP, (20, 20)) if "Rows" not in changes else np.tile(RAMP, (1, 20))
    changes = {**changes, "PixelData": pixels.tobytes() * 2} if "PixelData" in changes else changes
    assert refusal(header(pixels, **changes)) == reason


def test_smallest_and_largest_pixel_values_are_not_believed() -> None:
    made = header(EVERY, SmallestImagePixelValue=5, LargestImagePixelValue=6)
    assert np.array_equal(values(made), EVERY)


def test_an_offset_table_of_more_frames_than_the_header_has_is_a_contradiction() -> None:
    made = header(np.stack([EVERY, EVERY]))
    made.compress(RLELossless)
    assert np.array_equal(read(made, frames="2").pixels, EVERY)
    made.NumberOfFrames = 1
    assert refusal(made) == "more pixel data than the header says"


@pytest.mark.parametrize(
    "name", ["MR_small_jpeg_ls_lossless", "MR_small_jp2klossless", "JPGExtended", "JPEGLSNearLossless_16"]
)
def test_codestreams_of_more_bits_than_allocated_keep_no_lower_half(name: str) -> None:
    made = pydicom.dcmread(Path(pydicom.__file__).parent / "data" / "test_files" / f"{name}.dcm")
    assert read(made).flags == ()
    made.BitsAllocated, made.BitsStored, made.HighBit = 8, 8, 7
    assert refusal(made) == "compressed image has more bits than the header says"


def test_codestreams_of_more_bits_than_stored_are_read_by_their_values_and_flagged() -> None:
    name = Path(pydicom.__file__).parent / "data" / "test_files" / "MR_small_jpeg_ls_lossless.dcm"
    made = pydicom.dcmread(name)
    expected = read(made, window="none").pixels
    made.BitsStored, made.HighBit = 10, 9
    assert np.array_equal(read(made, window="none").pixels, expected)
    assert read(made).flags == (BEYOND_BITS,)
    buffer = io.BytesIO()
    picture = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(picture).save(buffer, "JPEG", quality=100)
    jpeg = header(picture, BitsStored=7, HighBit=6, PixelData=encapsulate([buffer.getvalue()]))
    jpeg.file_meta.TransferSyntaxUID = JPEGBaseline8Bit
    jpeg["PixelData"].VR = "OB"
    assert np.abs(flagged(jpeg).astype(int) - picture).max() <= 2
