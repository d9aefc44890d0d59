"""Every mode of Pillow, samples that it narrows, transparency, and pictures that lie on their side."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.TiffImagePlugin import ImageFileDirectory_v2

from pipeline.errors import ScanRefusedError
from pipeline.sources.base import ImageOptions, ReadRule, Scan, ScanTask
from pipeline.sources.images import source as images
from tests.pipeline.sources.images.test_files import EIGHT, SIXTEEN, png_chunk, tiff

TWELVE_BITS = (np.arange(35, dtype=np.uint16) * 117).reshape(5, 7)


def read(data: bytes, *, colour: str = "grey", aspect: float = 1.0) -> Scan:
    (scan,) = images.read(
        ScanTask(ReadRule("images", "", options=ImageOptions(colour)), "f", pixel_aspect=aspect), data
    )
    return scan


def refusal(data: bytes) -> str:
    with pytest.raises(ScanRefusedError) as caught:
        read(data)
    return caught.value.problem


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_16(samples: np.ndarray, colour_type: int) -> bytes:
    """Return a PNG of 16 bits a sample, (H, W, samples): Pillow writes none in colour."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    head = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(kind, body) for kind, body in chunks)


def tiff_16(samples: np.ndarray, *, planar: bool = False) -> bytes:
    """Return a TIFF of 16 bits a sample, (H, W, samples)."""
    height, width, count = samples.shape
    pixels = (samples.transpose(2, 0, 1) if planar else samples).astype("<u2").tobytes()
    tags = ImageFileDirectory_v2()
    tags[256], tags[257], tags[258], tags[259], tags[262] = width, height, (16,) * count, 1, 2
    tags[273], tags[277], tags[278], tags[279] = 0, count, height, len(pixels)
    tags[284] = 2 if planar else 1
    if planar:
        tags[273], tags[279] = (0,) * count, (len(pixels) // count,) * count
    if count == 4:
        tags[338] = 2
    start = 8 + len(tags.tobytes(8))
    tags[273] = tuple(start + number * len(pixels) // count for number in range(count)) if planar else start
    return b"II*\0\x08\0\0\0" + tags.tobytes(8) + pixels


@pytest.mark.parametrize(("colour_type", "count"), [(2, 3), (4, 2), (6, 4)])
def test_a_png_of_16_bit_colour_or_transparency_is_not_read_as_8_bit(colour_type: int, count: int) -> None:
    samples = np.repeat(TWELVE_BITS[..., None], count, axis=2)
    if count != 3:
        samples[..., -1] = 65_535
    assert refusal(png_16(samples, colour_type)) == "16-bit colour or transparency"
    assert np.array_equal(read(png_16(TWELVE_BITS, 0)).pixels, TWELVE_BITS)


@pytest.mark.parametrize("count", [3, 4])
@pytest.mark.parametrize("planar", [False, True])
def test_a_tiff_of_16_bit_colour_is_not_read_as_8_bit(count: int, planar: bool) -> None:
    data = tiff_16(np.repeat(TWELVE_BITS[..., None], count, axis=2), planar=planar)
    assert Image.open(io.BytesIO(data)).mode in {"RGB", "RGBA"}
    assert refusal(data) == "16-bit colour or transparency"


def with_tag(path: Path, tag: int, value: int, instead: int) -> bytes:
    """Return a TIFF of `tiff` with one of its directory entries replaced by a SHORT."""
    data = bytearray(path.read_bytes())
    (start,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, start)
    entries = [data[start + 2 + 12 * number :][:12] for number in range(count)]
    kept = [entry for entry in entries if struct.unpack_from("<H", entry)[0] != instead]
    kept = sorted(
        [*kept, struct.pack("<HHIHH", tag, 3, 1, value, 0)], key=lambda e: struct.unpack("<H", e[:2])
    )
    return bytes(data[: start + 2]) + b"".join(kept) + bytes(4)


def test_whole_numbers_of_another_sign_than_pillow_has_are_not_wrapped(tmp_path: Path) -> None:
    # RowsPerStrip is not needed for one strip, so that SampleFormat (339) can take its place.
    signed = with_tag(tiff(tmp_path / "a.tif", (EIGHT.astype(int) - 100).astype(np.int8)), 339, 2, 278)
    assert refusal(signed) == "signed 8-bit samples"
    below = EIGHT.astype(np.int32) - 100
    negative = with_tag(tiff(tmp_path / "b.tif", below), 339, 2, 278)
    assert np.array_equal(read(negative).pixels, below)
    small = tiff(tmp_path / "c.tif", EIGHT.astype(np.uint32) * 1000).read_bytes()
    assert np.array_equal(read(small).pixels, EIGHT * 1000.0)
    large = tiff(tmp_path / "d.tif", EIGHT.astype(np.uint32) + 2**31).read_bytes()
    assert refusal(large) == "values above 2**31 - 1"


@pytest.mark.parametrize(("scale", "reason"), [(16, "16-bit palette"), (256, ""), (257, "")])
def test_a_tiff_palette_of_more_than_8_bits_is_not_narrowed(scale: int, reason: str) -> None:
    plain = saved(Image.fromarray(EIGHT).convert("P"), "TIFF")
    written, wanted = (np.tile(np.arange(256) * factor, 3).astype("<u2").tobytes() for factor in (256, scale))
    assert written in plain
    data = plain.replace(written, wanted)
    if reason:
        assert refusal(data) == reason
    else:
        assert np.array_equal(read(data).pixels, EIGHT)


@pytest.mark.parametrize("mode", ["La", "PA", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"])
def test_other_modes_are_right_or_refused(mode: str) -> None:
    """What cannot be written in any of the formats is no concern; what can is grey, or has its reason."""
    grey = Image.fromarray(EIGHT)
    image = (
        grey.convert("RGB").convert(mode) if mode not in {"La", "PA"} else grey.convert("LA").convert(mode)
    )
    try:
        data = saved(image, "TIFF")
    except OSError:
        return
    try:
        found = read(data).pixels
    except ScanRefusedError as error:
        assert error.problem in {"unsupported pixel format", "not a PNG, JPEG or TIFF image"}
    else:
        assert np.abs(found.astype(int) - EIGHT).max() <= 1


@pytest.mark.parametrize("mode", ["I", "I;16", "I;16B", "F", "L", "1"])
def test_grey_modes_keep_their_values(mode: str) -> None:
    pixels = {"I": SIXTEEN.astype(np.int32), "I;16": SIXTEEN, "I;16B": SIXTEEN.astype(">u2"),
              "F": SIXTEEN / np.float32(3), "L": EIGHT, "1": EIGHT > 99}[mode]  # fmt: skip
    found = read(saved(Image.fromarray(pixels), "TIFF"))
    assert np.array_equal(found.pixels, pixels * 255 if mode == "1" else pixels)


def test_see_through_pixels_are_refused_and_opaque_ones_are_not() -> None:
    alpha = np.full(EIGHT.shape, 255, np.uint8)
    hidden = alpha.copy()
    hidden[0, 0] = 0
    for mode in ("LA", "RGBA"):
        image = Image.fromarray(EIGHT).convert(mode)
        for layer, reason in ((alpha, ""), (hidden, "transparent pixels")):
            image.putalpha(Image.fromarray(layer))
            data = saved(image, "PNG")
            assert refusal(data) == reason if reason else np.array_equal(read(data).pixels, EIGHT)
    palette = Image.fromarray(EIGHT).convert("P")
    unused = int(EIGHT.max()) + 1
    assert np.array_equal(read(saved(palette, "PNG", transparency=unused)).pixels, EIGHT)
    assert refusal(saved(palette, "PNG", transparency=0)) == "transparent pixels"
    table = bytes([255] * 7 + [9])
    assert refusal(saved(palette, "PNG", transparency=table)) == "transparent pixels"
    # One grey value marked as transparent: the pixels have that value all the same.
    assert np.array_equal(read(saved(Image.fromarray(EIGHT), "PNG", transparency=0)).pixels, EIGHT)


# PIL's names of what has to be done to the stored picture, by Exif's Orientation.
TURNS = {
    1: None, 2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "TIFF packed", "PNG 16"])
def test_a_picture_is_shown_the_way_its_file_says(kind: str, orientation: int) -> None:
    pixels = SIXTEEN if kind == "PNG 16" else np.kron(EIGHT, np.ones((8, 8), np.uint8))
    stored = Image.fromarray(pixels)
    exif = Image.Exif()
    exif[274] = orientation
    options: dict[str, object] = {"exif": exif}
    if kind == "JPEG":
        options["quality"] = 100
    if kind == "TIFF packed":
        options["compression"] = "tiff_lzw"
    found = read(saved(stored, kind.split(maxsplit=1)[0], **options), aspect=2.0)
    turn = TURNS[orientation]
    expected = np.asarray(stored if turn is None else stored.transpose(turn))
    assert np.abs(found.pixels.astype(int) - expected).max() <= (3 if kind == "JPEG" else 0)
    assert found.pixel_aspect == (0.5 if orientation >= 5 else 2.0)
    assert found.pixels.flags.c_contiguous


def test_the_top_left_corner_of_a_picture_on_its_side_is_at_the_bottom_left_of_the_stored_one() -> None:
    """By hand, for Exif's 6: the stored row 0 is the right side of the picture, its column 0 the top."""
    exif = Image.Exif()
    exif[274] = 6
    found = read(saved(Image.fromarray(EIGHT), "PNG", exif=exif)).pixels
    assert (found[0, 0], found[0, -1], found[-1, 0]) == (EIGHT[-1, 0], EIGHT[0, 0], EIGHT[-1, -1])


@pytest.mark.parametrize("exif", [b"Exif\0\0MM\0*\0\0", b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\x7f"])
def test_exif_data_that_cannot_be_read_turn_nothing(exif: bytes) -> None:
    data = saved(Image.fromarray(EIGHT), "JPEG", exif=exif)
    assert read(data).pixels.shape == EIGHT.shape
