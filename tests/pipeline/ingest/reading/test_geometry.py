"""From a scan to a square: nothing is lost by padding or squeezed, and 8-bit images stay as they are."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.errors import ScanRefusedError
from pipeline.ingest.reading.flags import EXTREME_ASPECT, NEAR_CONSTANT, UPSAMPLED, flags_of
from pipeline.ingest.reading.geometry import black_and_white, crop_box, to_square


def square(pixels: np.ndarray, size: int, **changes: object) -> np.ndarray:
    chosen = {"fit": "pad", "pixel_aspect": 1.0, "black_white": (0.0, 255.0), "bit_depth": 8, **changes}
    return to_square(pixels, size, **chosen)  # type: ignore[arg-type]


def test_an_8_bit_image_of_the_right_size_is_kept_bit_for_bit() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    assert (square(pixels, 28) == pixels).all()
    assert (square(pixels, 28, fit="crop") == pixels).all()
    assert (square(pixels, 28, bit_depth=16) == pixels.astype(np.uint16) * 257).all()


def test_padding_centres_the_whole_scan_on_black() -> None:
    made = square(np.full((40, 20), 255, dtype=np.uint8), 16)
    assert (made[:, 4:12] == 255).all()
    assert (made[:, :4] == 0).all()
    assert (made[:, 12:] == 0).all()


def test_a_squeezed_disc_becomes_round_again() -> None:
    y, x = np.mgrid[0:200, 0:200] - 99.5
    squeezed = ((np.hypot(x * 1.5, y) < 60) * 255).astype(np.uint8)
    for fit in ("pad", "crop"):
        made = square(squeezed, 60, fit=fit, pixel_aspect=1.5) > 127
        rows, columns = made.any(axis=1).sum(), made.any(axis=0).sum()
        assert abs(int(rows) - int(columns)) <= 1


def test_the_crop_box_is_the_largest_centred_square() -> None:
    assert crop_box(100, 100, 1.25) == (0.0, 10.0, 100.0, 90.0)
    assert crop_box(100, 60, 1.0) == (20.0, 0.0, 80.0, 60.0)


def test_black_and_white_ignore_outliers_and_a_constant_scan_is_refused() -> None:
    pixels = np.random.default_rng(1).normal(1000, 10, (200, 200)).astype(np.float32)
    pixels[0, 0] = 1e9
    low, high = black_and_white(pixels, (0.5, 99.5))
    assert 960 < low < 985
    assert 1015 < high < 1040
    with pytest.raises(ScanRefusedError, match="constant"):
        black_and_white(np.ones((5, 5)), (0.5, 99.5))


def test_the_full_precision_reaches_the_final_rounding() -> None:
    ramp = np.linspace(0, 4095, 64 * 64).astype(np.uint16).reshape(64, 64)
    made = square(ramp, 64, black_white=(0.0, 4095.0), bit_depth=16)
    assert len(np.unique(made)) == len(np.unique(ramp))


def test_flags_name_what_a_person_should_look_at() -> None:
    flat = np.full((16, 16), 7, dtype=np.uint8)
    noisy = np.random.default_rng(2).integers(0, 256, (16, 16), dtype=np.uint8)
    assert flags_of(flat, (64, 64), 1.0) == (NEAR_CONSTANT,)
    assert flags_of(noisy, (8, 8), 1.0) == (UPSAMPLED,)
    assert flags_of(noisy, (64, 64), 3.0) == (EXTREME_ASPECT,)
    assert flags_of(noisy, (64, 64), 1.0) == ()
