"""Near-duplicates: copies are found, look-alikes are not, and no chain joins strangers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from pipeline.ingest.duplicates.near_duplicates import MIN_CORRELATION, NearDuplicates, find_near_duplicates
from pipeline.ingest.duplicates.registration import aligned_correlation, prepare
from pipeline.ingest.duplicates.similar_pairs import PARTNERS, candidate_pairs
from pipeline.ingest.reading.geometry import to_square
from pipeline.ingest.reading.signatures import SCALE, signature_length, signatures, thumbnail
from tests.pipeline.ingest.planted import copies, radiographs


class Held:
    """Thumbnails that lie in memory; notes which were fetched."""

    def __init__(self, images: np.ndarray) -> None:
        self.images, self.fetched = images, set[int]()

    def fetch(self, rows: np.ndarray) -> None:
        self.fetched |= set(rows.tolist())

    def take(self, rows: np.ndarray) -> np.ndarray:
        assert set(rows.tolist()) <= self.fetched
        return self.images[rows]


def find(
    images: np.ndarray, patients: np.ndarray | None = None, labels: np.ndarray | None = None
) -> NearDuplicates:
    names = {image.tobytes(): number for number, image in enumerate(images)}
    codes = {number: code for code, number in enumerate(sorted(set(names.values())))}
    return find_near_duplicates(
        signatures(images),
        Held(images),
        exact=np.array([codes[names[image.tobytes()]] for image in images]),
        patients=np.arange(len(images)) if patients is None else patients,
        labels=np.zeros(len(images), dtype=np.int64) if labels is None else labels,
    )


def small(image: np.ndarray, side: int = 32, pixel_aspect: float = 1.0) -> np.ndarray:
    return to_square(
        image, side, fit="crop", pixel_aspect=pixel_aspect, black_white=(0, 255), bit_depth=8
    ).astype(np.uint8)


def test_a_signature_forgets_brightness_and_contrast_and_tells_a_negative() -> None:
    image = radiographs(1, 32)[0]
    first, same, negative = signatures(np.stack([image, (image * 0.8 + 20).astype(np.uint8), 255 - image]))
    assert signature_length() == len(first)
    assert np.abs(first.astype(int) - same).max() <= 2
    assert np.abs(first.astype(int) + negative).max() <= 1
    assert np.linalg.norm(first.astype(float)) == pytest.approx(SCALE, rel=0.02)
    assert not signatures(np.full((1, 32, 32), 9, dtype=np.uint8)).any()


def test_a_thumbnail_is_the_image_itself_where_it_is_small_and_8_bit_everywhere() -> None:
    image = radiographs(1, 28)[0]
    assert (thumbnail(image) == image).all()
    assert (thumbnail(image.astype(np.uint16) * 257) == image).all()
    assert thumbnail(radiographs(1, 96)[0]).shape == (32, 32)


def test_candidates_are_all_similar_pairs_and_cells_find_nearly_all_of_them() -> None:
    rng = np.random.default_rng(5)
    base = rng.normal(size=(1500, 52))
    twins = base[:300] + 0.15 * rng.normal(size=(300, 52))
    values = np.concatenate([base, twins])
    values = np.rint(SCALE * values / np.linalg.norm(values, axis=1, keepdims=True)).astype(np.int8)
    unit = values / np.linalg.norm(values.astype(float), axis=1, keepdims=True)
    first, second = np.nonzero(np.triu(unit @ unit.T, 1) > 0.92)
    expected = set(zip(first.tolist(), second.tolist(), strict=True))
    assert len(expected) == 300
    assert set(map(tuple, candidate_pairs(values).tolist())) == expected
    by_cells = set(map(tuple, candidate_pairs(values, cell_scans=100).tolist()))
    assert by_cells <= expected
    assert len(by_cells) >= 0.97 * len(expected)


def test_a_scan_brings_in_few_candidates_however_many_are_alike() -> None:
    same = np.tile(signatures(radiographs(1, 32)), (3000, 1))
    pairs = candidate_pairs(same)
    assert np.bincount(pairs[:, 0]).max() <= PARTNERS
    assert len(pairs) == PARTNERS * 3000 - 3


def test_agreement_undoes_a_shift_and_a_stretch_but_not_another_patient() -> None:
    large = radiographs(3, 160, seed=4)
    moved = [small(large[0][2:-2, 3:-1]), small(large[0]), small(large[1]), small(large[2])]
    ready = prepare(np.stack(moved))
    scores = aligned_correlation(ready.take(np.array([0, 0, 0])), ready.take(np.array([1, 2, 3])))
    assert scores[0] > 0.93
    assert scores[1:].max() < 0.6


@pytest.mark.parametrize("side", [28, 32])
def test_every_kind_of_copy_is_found_and_nothing_else(side: int) -> None:
    large = radiographs(60, 160)
    planted = [(row, image) for row in range(0, 60, 6) for image in copies(large[row]).values()]
    images = np.stack([small(image, side) for image in [*large, *(image for _, image in planted)]])
    found = find(images)
    for place, (row, _) in enumerate(planted, start=60):
        assert found.groups.group[place] == found.groups.group[row]
    assert found.groups.num_groups == 10
    assert (found.correlation >= found.threshold).all()
    assert found.threshold >= MIN_CORRELATION


def test_no_pair_is_found_where_all_images_are_nearly_the_same_picture() -> None:
    rng = np.random.default_rng(8)
    body = radiographs(1, 32)[0].astype(float)
    images = np.clip(body + rng.normal(0, 3, (300, 32, 32)), 0, 255).astype(np.uint8)
    found = find(images)
    assert found.threshold > MIN_CORRELATION
    assert found.groups.num_groups == 0


def test_a_chain_of_copies_of_copies_does_not_join_its_ends() -> None:
    start, end = radiographs(2, 32, seed=2).astype(float)
    others = radiographs(80, 32, seed=9)
    chain = np.stack([start + (end - start) * step for step in np.linspace(0, 1, 12)]).astype(np.uint8)
    found = find(np.concatenate([chain, others]))
    groups = found.groups.group[:12]
    assert len(found.pairs) > 8
    assert groups[0] != groups[11]
    assert max(np.bincount(groups)) < 8


def test_exact_copies_follow_their_near_duplicate_and_labels_that_differ_are_counted() -> None:
    large = radiographs(40, 160)
    near = small(copies(large[3])["brighter"])
    images = np.stack([*(small(image) for image in large), small(large[3]), near])
    labels = np.zeros(42, dtype=np.int64)
    labels[41] = 1
    found = find(images, labels=labels)
    assert len(set(found.groups.group[[3, 40, 41]])) == 1
    assert found.groups.size[3] == 3
    assert (found.groups.num_groups, found.groups.conflicting) == (1, 1)
    assert found.pairs.tolist() == [[3, 41]]


def test_real_radiographs_give_the_planted_copies_and_one_true_pair(data_root: Path) -> None:
    """600 files, among them the one pair of different patients that shows the same radiograph."""
    import csv

    folder = data_root / "kermany_cxr"
    if not (folder / "manifest.csv").is_file():
        pytest.skip(f"real data is missing: {folder / 'manifest.csv'}")
    rows = list(csv.DictReader((folder / "manifest.csv").open()))
    twins = [n for n, row in enumerate(rows) if row["patient_id"] in {"NORMAL2-IM-0095", "NORMAL2-IM-0096"}]
    chosen = sorted({*np.random.default_rng(0).choice(len(rows), 600, replace=False).tolist(), *twins})
    images, patients, planted = [], [], []
    for place, number in enumerate(chosen):
        pixels = np.asarray(Image.open(folder / rows[number]["file"]).convert("L"))
        aspect = float(rows[number]["pixel_aspect"] or 1.42)
        images.append(small(pixels, pixel_aspect=aspect))
        patients.append(rows[number]["patient_id"])
        if place % 20 == 0:
            planted += [(place, small(copy, pixel_aspect=aspect)) for copy in copies(pixels).values()]
    names = {name: code for code, name in enumerate(dict.fromkeys(patients))}
    codes = [names[name] for name in patients]
    codes += [10_000 + number for number in range(len(planted))]
    found = find(np.stack([*images, *(image for _, image in planted)]), patients=np.array(codes))
    group = found.groups.group
    hits = [group[len(images) + at] == group[place] for at, (place, _) in enumerate(planted)]
    assert len(hits) > 180
    assert np.mean(hits) > 0.97
    across = {
        (patients[a], patients[b])
        for a, b in found.pairs.tolist()
        if b < len(images) and codes[a] != codes[b]
    }
    assert across == {("NORMAL2-IM-0095", "NORMAL2-IM-0096")}
