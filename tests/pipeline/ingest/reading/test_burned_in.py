"""Burned-in text: several aligned characters near the border count, a marker and anatomy do not."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.ingest.reading.burned_in import find_text
from pipeline.ingest.reading.text_boxes import paint_over
from tests.pipeline.ingest.planted import jpeg, radiographs, with_text

RANGE = (0.0, 255.0)


@pytest.fixture(scope="module")
def scans() -> np.ndarray:
    return radiographs(4, 256, seed=6)


def test_clean_images_and_single_markers_hold_no_text(scans: np.ndarray) -> None:
    for scan in scans:
        assert find_text(scan, RANGE) == []
        for marker in ("R", "L", "PA"):
            for size in (12, 20, 30):
                assert find_text(with_text(scan, marker, (8, 8), size=size), RANGE) == []


@pytest.mark.parametrize("text", ["SMITH JOHN", "1962-03-14", "ID 0048213"])
@pytest.mark.parametrize("place", [(4, 4), (4, -4), (-4, 4), (-4, -4)])
@pytest.mark.parametrize("size", [11, 16, 26])
def test_names_and_dates_are_found_where_they_stand(
    scans: np.ndarray, text: str, place: tuple[int, int], size: int
) -> None:
    written = with_text(np.minimum(scans[0], 190), text, place, size=size)
    changed = np.argwhere(written != np.minimum(scans[0], 190))
    top, left, bottom, right = *changed.min(axis=0), *changed.max(axis=0)
    boxes = find_text(written, RANGE)
    assert boxes
    shared = sum(
        max(0, min(box.right, right) - max(box.left, left))
        for box in boxes
        if box.top < bottom and box.bottom > top
    )
    assert shared > 0.5 * (right - left)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_pixel_type_and_scale_do_not_matter(scans: np.ndarray, dtype: type) -> None:
    written = with_text(np.minimum(scans[1], 190), "DOE JANE", (5, 5))
    factor = 1 if dtype is np.uint8 else 257
    boxes = find_text(written.astype(dtype) * dtype(factor), (0.0, 255.0 * factor))
    assert boxes == find_text(written, RANGE) != []


def test_dark_text_on_a_bright_border_compressed_text_and_large_text_are_found() -> None:
    bright = (radiographs(1, 256)[0] // 4 + 150).astype(np.uint8)
    assert find_text(with_text(bright, "1999-12-31", (6, 6), size=14, value=0), RANGE)
    assert find_text(jpeg(with_text(bright // 3, "MUELLER", (6, 6)), 75), RANGE)
    large = np.asarray(Image.fromarray(bright // 2).resize((1024, 1024)))
    assert find_text(with_text(large, "SMITH 1970", (12, 12), size=64), RANGE)


def test_text_in_the_middle_is_left_to_others_and_tiny_images_hold_none(scans: np.ndarray) -> None:
    assert find_text(with_text(scans[0] // 2, "SMITH", (120, 100)), RANGE) == []
    assert find_text(with_text(radiographs(1, 64)[0], "SMITH", (2, 2), size=10), RANGE) == []
    assert find_text(np.full((300, 300), 7, dtype=np.uint16), (7.0, 7.0)) == []


def test_painting_over_leaves_no_text_and_touches_little_else(scans: np.ndarray) -> None:
    clean = np.minimum(scans[2], 190)
    written = with_text(clean, "SMITH JOHN 1962", (5, 5), size=14)
    painted = paint_over(written, find_text(written, RANGE))
    assert find_text(painted, RANGE) == []
    assert painted.max() <= 190
    assert written.max() == 255
    assert (painted != clean).mean() < 0.12


def test_noise_does_not_take_long_and_is_no_text() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (600, 600), dtype=np.uint8)
    assert len(find_text(noise, RANGE)) <= 1


def test_real_radiographs_hold_few_texts_and_planted_ones_are_found(data_root: Path) -> None:
    """In a seeded sample of 300 files stand a few clock times and tube voltages; nothing else is found."""
    folder = data_root / "kermany_cxr"
    if not (folder / "manifest.csv").is_file():
        pytest.skip(f"real data is missing: {folder / 'manifest.csv'}")
    names = [row["file"] for row in csv.DictReader((folder / "manifest.csv").open())]
    chosen = np.random.default_rng(0).choice(len(names), 300, replace=False)
    flagged = hits = tried = 0
    for number in chosen.tolist():
        scan = np.asarray(Image.open(folder / names[number]).convert("L"))
        flagged += bool(find_text(scan, RANGE))
        if number % 3 == 0 and scan[:20, :90].mean() < 120:
            tried += 1
            hits += bool(find_text(with_text(scan, "SMITH JOHN", (3, 3), size=12), RANGE))
    assert flagged <= 12
    assert tried > 50
    assert hits >= 0.95 * tried
