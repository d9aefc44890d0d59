"""Area averaging: exact at any ratio."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sources.images.resize import area_average

sizes = st.integers(1, 40)


def overlap(length: int, count: int, start: float, stop: float) -> np.ndarray:
    """Share of each old pixel in each new one, straight from the definition."""
    edges = np.linspace(start, stop, count + 1)
    old = np.arange(length)
    shared = np.minimum(edges[1:, None], old + 1) - np.maximum(edges[:-1, None], old)
    return np.clip(shared, 0, None) / (edges[1:] - edges[:-1])[:, None]


@settings(max_examples=150)
@given(sizes, sizes, sizes, sizes, st.floats(0, 0.45), st.floats(0, 0.45), st.integers(0, 99))
def test_each_new_pixel_is_the_mean_of_the_area_it_covers(
    rows: int, columns: int, height: int, width: int, top: float, left: float, seed: int
) -> None:
    pixels = np.random.default_rng(seed).integers(0, 4096, (rows, columns)).astype(np.uint16)
    box = (top * rows, left * columns, (1 - top / 2) * rows, (1 - left / 3) * columns)
    expected = overlap(rows, height, box[0], box[2]) @ pixels @ overlap(columns, width, box[1], box[3]).T
    assert np.allclose(area_average(pixels, height, width, box), expected, atol=1e-6)


@given(st.integers(1, 60), st.integers(1, 60))
@settings(max_examples=50)
def test_the_mean_of_the_image_is_kept(rows: int, size: int) -> None:
    pixels = np.random.default_rng(rows).normal(size=(rows, 2 * rows)).astype(np.float32)
    assert np.isclose(area_average(pixels, size, size).mean(), pixels.mean(dtype=np.float64))


def test_the_same_size_changes_nothing_and_a_box_outside_is_refused() -> None:
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert (area_average(pixels, 3, 4) == pixels).all()
    with pytest.raises(ValueError, match="box"):
        area_average(pixels, 2, 2, (0, 0, 4, 4))
