"""Negatives and strangers among the scans of a class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.ingest.duplicates.outliers import MIN_SCANS, MIN_SCANS_OUTLIERS, inverted, unlike_the_rest
from pipeline.ingest.reading.signatures import signatures, thumbnail
from tests.pipeline.ingest.planted import radiographs


@pytest.fixture(scope="module")
def body() -> np.ndarray:
    return radiographs(300, 32)


def test_negatives_are_told_and_nothing_else(body: np.ndarray) -> None:
    images = body.copy()
    images[:20] = 255 - images[:20]
    assert np.flatnonzero(inverted(signatures(images))).tolist() == list(range(20))
    assert not inverted(signatures(body)).any()


def test_few_scans_have_no_common_look() -> None:
    images = radiographs(MIN_SCANS - 1, 32)
    images[0] = 255 - images[0]
    assert not inverted(signatures(images)).any()
    assert not unlike_the_rest(signatures(radiographs(MIN_SCANS_OUTLIERS - 1, 32))).any()
    assert not inverted(np.zeros((50, 52), dtype=np.int8)).any()
    assert not unlike_the_rest(np.zeros((500, 52), dtype=np.int8)).any()


def test_strangers_are_told_even_where_they_are_one_in_fifteen(body: np.ndarray) -> None:
    y, x = np.mgrid[-1:1:32j, -1:1:32j]
    rng = np.random.default_rng(3)
    bars = [127 + 120 * np.sin(9 * (x * np.cos(t) + y * np.sin(t))) for t in rng.uniform(0.2, 0.6, 20)]
    flags = unlike_the_rest(signatures(np.concatenate([body, np.stack(bars).astype(np.uint8)])))
    assert flags[300:].sum() >= 18
    assert flags[:300].sum() <= 6


def test_hands_among_chests(data_root: Path) -> None:
    """20 hands among 500 chests, five times; and each set alone raises few alarms and no negative."""
    path = data_root / "mednist_xray" / "mednist_xray_64.npz"
    if not path.is_file():
        pytest.skip(f"real data is missing: {path}")
    with np.load(path) as archive:
        images, labels = archive["images"], archive["labels"].ravel()
    told = signatures(np.stack([thumbnail(image) for image in images]))
    chests, hands = told[labels == 0], told[labels == 1]
    rng = np.random.default_rng(0)
    hits = alarms = 0
    for _ in range(5):
        mixed = np.concatenate([chests[rng.choice(2000, 500, False)], hands[rng.choice(2000, 20, False)]])
        flags = unlike_the_rest(mixed)
        hits += int(flags[500:].sum())
        alarms += int(flags[:500].sum())
    assert hits >= 75
    assert alarms <= 25
    for one in (chests, hands):
        assert not inverted(one).any()
        assert inverted_share(one) > 0.95


def inverted_share(told: np.ndarray) -> float:
    """The share of single negatives that is told among the rest."""
    mixed = told.copy()
    mixed[::20] = -mixed[::20]
    return float(inverted(mixed)[::20].mean())
