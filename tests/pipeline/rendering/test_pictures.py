"""Pictures hold the pixels they were given, byte for byte the same each time."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pipeline.rendering.pictures import GAP_PIXELS, contact_sheet, data_uri, display_pixels, png_bytes


def _decode(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        assert image.format == "PNG"
        return np.asarray(image)


@settings(max_examples=25)
@given(st.integers(1, 9), st.integers(1, 6), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_every_tile_of_a_sheet_holds_its_image(count: int, columns: int, scale: int, seed: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (count, 1, 5, 7), dtype=np.uint8)
    sheet = _decode(contact_sheet(images, columns, scale))
    across = min(columns, count)
    for index, image in enumerate(images):
        top = index // across * (5 * scale + GAP_PIXELS)
        left = index % across * (7 * scale + GAP_PIXELS)
        tile = sheet[top : top + 5 * scale : scale, left : left + 7 * scale : scale]
        np.testing.assert_array_equal(tile, image[0])


def test_sixteen_bits_map_their_whole_range_onto_eight() -> None:
    values = np.array([[0, 257, 32_896, 65_535]], dtype=np.uint16)
    np.testing.assert_array_equal(display_pixels(values), [[0, 1, 128, 255]])


def test_equal_pixels_give_equal_bytes_and_a_readable_data_address() -> None:
    image = np.arange(64, dtype=np.uint8).reshape(1, 8, 8)
    assert png_bytes(image, scale=3) == png_bytes(image.copy(), scale=3)
    head, body = data_uri(png_bytes(image)).split(",")
    assert head == "data:image/png;base64"
    np.testing.assert_array_equal(_decode(base64.b64decode(body)), image[0])


@pytest.mark.parametrize(
    ("shape", "dtype", "columns", "scale", "message"),
    [
        ((0, 1, 4, 4), np.uint8, 1, 1, "images must be"),
        ((2, 3, 4, 4), np.uint8, 1, 1, "images must be"),
        ((2, 1, 4, 4), np.float32, 1, 1, "uint8 or uint16"),
        ((2, 1, 4, 4), np.uint8, 0, 1, "columns"),
        ((2, 1, 4, 4), np.uint8, 1, 0, "scale"),
        ((2, 1, 400, 400), np.uint8, 2, 90, "larger than"),
    ],
)
def test_wrong_arguments_are_named(
    shape: tuple[int, ...], dtype: type, columns: int, scale: int, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        contact_sheet(np.zeros(shape, dtype=dtype), columns, scale)
