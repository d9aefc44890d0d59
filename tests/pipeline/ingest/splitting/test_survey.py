"""The survey: known patients, the kept test part, near-duplicates, and published splits that leak."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.artifacts.cohort import Cohort
from pipeline.errors import DataError
from pipeline.ingest import run_ingest
from pipeline.ingest.duplicates.duplicates import Duplicates, find_duplicates, grouped
from pipeline.ingest.reading.facts import gather
from pipeline.ingest.reading.parts import PartRow, PartWriter
from pipeline.ingest.reading.worker import draw
from pipeline.ingest.settings import IngestSettings
from pipeline.ingest.splitting.published import check_published, refuse_leaks
from pipeline.ingest.splitting.seals import DrawSeal
from pipeline.ingest.splitting.splits import AUDIT_IN, AUDIT_NONE, AUDIT_OUT, HOLDOUT, TEST, TRAIN, VAL
from pipeline.ingest.splitting.survey import IN_TEST, TEST_ALIKE, TEST_DUPLICATE, Overview, survey
from pipeline.manifest import load_manifest
from tests.pipeline.ingest.scans import manifest_of, write_images

MANIFESTS = Path(__file__).resolve().parents[4] / "data_manifests"
SETTINGS = IngestSettings()
SEAL = DrawSeal(b"k" * 32, "d", 0)


def pseudonym(patient: int, key: int = 0) -> str:
    return f"p-{(patient * 2654435761 + key * 97) % 2**64:016x}"


class Scans:
    """Readable scans as rows of a part: patient and image by number."""

    def __init__(
        self, folder: Path, patients: list[int], images: list[int] | None = None, key: int = 0
    ) -> None:
        images = images if images is not None else [*range(len(patients))]
        self.folder, self.count = folder, len(patients)
        self.patients = np.array(patients)
        rows = [
            PartRow(
                sample_id=f"s-{row:016x}",
                patient_id=pseudonym(patient, key),
                sealed_draw=SEAL(draw(0, "d", str(patient)), pseudonym(patient, key)),
                pixel_hash=f"{image:032x}",
            )
            for row, (patient, image) in enumerate(zip(patients, images, strict=True))
        ]
        with PartWriter(folder, 0) as part:
            for row in rows:
                part.add(row)

    def survey(self, **changed: Any) -> Overview:
        asked: dict[str, Any] = {
            "labels": np.arange(self.count) // 2 % 2,
            "published": {},
            "classes": ("a", "b"),
            "settings": SETTINGS,
            "kept_test": np.zeros(self.count, dtype=bool),
            "claims": {},
            "keeps_test": False,
        }
        facts = gather(self.folder, 1, self.count, changed.pop("known", {}), SEAL)
        return survey(facts, **{**asked, **changed})


def places(overview: Overview) -> dict[str, tuple[int, int]]:
    """Pseudonym -> place, as an earlier cohort's records tell it."""
    rows = zip(overview.patients, overview.split.side, overview.split.audit, strict=True)
    return {pseudonym(int(patient)): (int(side), int(audit)) for patient, side, audit in rows}


def test_another_pseudonym_key_gives_the_same_split(tmp_path: Path) -> None:
    patients = [*range(60), *range(0, 60, 3)]
    one = Scans(tmp_path / "a", patients).survey()
    two = Scans(tmp_path / "b", patients, key=5).survey()
    assert (one.split.side == two.split.side).all()
    assert (one.split.audit == two.split.audit).all()


def test_the_key_changes_names_and_not_sides_of_a_whole_ingest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path)
    settings = IngestSettings(image_size=16)
    one = Cohort(run_ingest(manifest_of(tmp_path), tmp_path / "one", settings).path)
    monkeypatch.setenv("PHOSPHOR_KEY", "a7" * 32)
    two = Cohort(run_ingest(manifest_of(tmp_path), tmp_path / "two", settings).path)
    assert (one.split == two.split).all()
    assert one.records()["audit"].tolist() == two.records()["audit"].tolist()
    assert not set(one.records()["patient_id"]) & set(two.records()["patient_id"])


def test_patients_of_an_earlier_cohort_keep_side_and_role_when_others_arrive(tmp_path: Path) -> None:
    before = Scans(tmp_path / "a", [*range(40)]).survey()
    after = Scans(tmp_path / "b", [*range(100, 160), *range(40)]).survey(known=places(before))
    assert (after.split.side[60:] == before.split.side).all()
    assert (after.split.audit[60:] == before.split.audit).all()
    assert after.num_known == 40
    assert "40 patients of an earlier cohort keep their split and audit role" in after.notes()


def test_an_image_that_two_known_patients_share_is_counted_and_moves_nobody(tmp_path: Path) -> None:
    known = {pseudonym(0): (TRAIN, AUDIT_IN), pseudonym(1): (HOLDOUT, AUDIT_OUT), pseudonym(2): (VAL, 0)}
    images = [*range(40)]
    images[1], images[5] = 0, 2
    found = Scans(tmp_path, [*range(40)], images).survey(known=known)
    assert found.split.side[:3].tolist() == [TRAIN, HOLDOUT, VAL]
    assert found.split.audit[:3].tolist() == [AUDIT_IN, AUDIT_OUT, AUDIT_NONE]
    assert found.split.side[5] == VAL
    assert found.crossing == (1, 0)
    assert "1 images stand on two sides because both patients had theirs before" in found.notes()
    alone = Scans(tmp_path / "new", [*range(40)], images).survey()
    assert alone.crossing == (0, 0)
    assert alone.split.side[0] == alone.split.side[1]


def test_the_order_of_scans_changes_no_side_even_where_images_link_known_patients(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    patients, images = rng.integers(0, 50, 80), rng.integers(0, 60, 80)
    labels, known = patients % 2, {pseudonym(n): (n % 4, AUDIT_NONE) for n in range(0, 50, 5)}
    first = Scans(tmp_path / "a", patients.tolist(), images.tolist()).survey(labels=labels, known=known)
    order = rng.permutation(80)
    turned = Scans(tmp_path / "b", patients[order].tolist(), images[order].tolist())
    second = turned.survey(labels=labels[order], known=known)
    assert first.crossing[0] > 0
    assert first.crossing == second.crossing
    assert (second.split.side == first.split.side[order]).all()
    assert (second.split.audit == first.split.audit[order]).all()


def test_near_duplicates_keep_patients_on_one_side(tmp_path: Path) -> None:
    near = np.arange(40)
    near[[3, 17, 29]] = 3
    near[8] = 7
    alike = grouped(near, np.zeros(40, dtype=np.int64))
    images = [*range(40)]
    images[8] = 7
    found = Scans(tmp_path, [*range(40)], images).survey(alike=alike)
    assert len({int(found.split.side[row]) for row in (3, 17, 29)}) == 1
    assert found.alike is not None
    assert found.alike.num_groups == 1
    assert found.num_joined == 3
    assert "1 groups of near-duplicate images" in found.notes()


def test_the_kept_test_part_drops_its_patients_images_and_those_alike_from_the_pool(
    tmp_path: Path,
) -> None:
    patients = [*range(38), 0, 50]
    images = [*range(39), 1]
    near = np.arange(40)
    near[20] = 2
    kept = np.arange(40) < 6
    found = Scans(tmp_path, patients, images).survey(
        kept_test=kept, keeps_test=True, alike=grouped(near, np.zeros(40, dtype=np.int64))
    )
    assert found.reasons == {38: IN_TEST, 39: TEST_DUPLICATE, 20: TEST_ALIKE}
    assert not found.kept[[20, 38, 39]].any()
    assert ((found.split.side == TEST) == kept).all()


def test_a_known_patient_stays_out_of_the_published_test_part_with_all_its_scans(tmp_path: Path) -> None:
    kept = np.arange(42) < 6
    known = {pseudonym(0): (TRAIN, 0), pseudonym(1): (TEST, 0), pseudonym(30): (TEST, 0)}
    found = Scans(tmp_path, [*range(40), 0, 1]).survey(kept_test=kept, keeps_test=True, known=known)
    assert found.split.side[[0, 40]].tolist() == [TRAIN, TRAIN]
    assert found.split.side[[1, 2, 3, 4, 5, 30]].tolist() == [TEST] * 6
    assert found.reasons == {41: IN_TEST}
    assert found.num_kept_known == 1
    assert any(note.startswith("1 patients of the kept test part stay in another") for note in found.notes())


PARTS = ["train", "train", "val", "val", "test", ""]


def test_what_parts_share_is_counted_by_pair_and_unknown_patients_are_not() -> None:
    hashes = np.array([b"a", b"b", b"a", b"c", b"d", b"a"], dtype="S16").view("V16")
    zeros = np.zeros(6, dtype=np.int64)
    near = Duplicates(np.array([9, 1, 2, 3, 9, 5]), np.array([2, 1, 1, 1, 2, 1]), 1, 0)
    exact = find_duplicates(hashes, zeros)
    shared = check_published("official", PARTS, np.array([0, 1, 1, -1, 0, 1]), exact, near)
    assert shared.pairs == {("train", "val"): 1, ("train", "test"): 1, ("val", "test"): 0}
    assert shared.exact == {("train", "val"): 1, ("train", "test"): 0, ("val", "test"): 0}
    assert shared.alike == {("train", "val"): 0, ("train", "test"): 1, ("val", "test"): 0}
    notes = shared.notes()
    assert "published split official: 1 patients stand in both train and val" in notes
    assert "published split official: 0 patients stand in both val and test" in notes
    assert "published split official: 1 groups of exact duplicate images stand in both train and val" in notes
    assert "published split official: 1 groups of near-duplicate images stand in both train and test" in notes
    clean = check_published("other", PARTS, np.arange(6), find_duplicates(np.arange(6).view("V8"), zeros))
    assert clean.alike is None
    assert "published split other: no groups of exact duplicate images stand in two parts" in clean.notes()
    assert not any("near" in note for note in clean.notes())
    refuse_leaks([clean])
    with pytest.raises(DataError, match="1 patients stand in both train and val") as caught:
        refuse_leaks([clean, shared])
    assert caught.value.exit_code == 3
    assert "0 patients" not in str(caught.value)


@pytest.mark.parametrize("leak", ["patient", "exact", "near"])
def test_strict_refuses_a_published_split_that_leaks_and_says_what_to_do(tmp_path: Path, leak: str) -> None:
    patients, images, near = [*range(40)], [*range(40)], np.arange(40)
    parts = ["train"] * 30 + ["val"] * 10
    strict = SETTINGS.model_copy(update={"strict": True})
    asked: dict[str, Any] = {"published": {"official": parts}, "settings": strict}
    clean = Scans(tmp_path / "clean", patients).survey(alike=grouped(near, near), **asked)
    assert clean.kept.all()
    if leak == "patient":
        patients[35] = 3
    elif leak == "exact":
        images[35] = 3
    else:
        near[35] = 3
    scans = Scans(tmp_path / "leaky", patients, images)
    alike = grouped(near, np.zeros(40, dtype=np.int64))
    with pytest.raises(DataError, match=r"1 .* stand in both train and val.*ingest.strict") as caught:
        scans.survey(alike=alike, **asked)
    assert caught.value.exit_code == 3
    assert "p-" not in str(caught.value)
    assert scans.survey(alike=alike, published={"official": parts}).kept.all()


def test_strict_refuses_pneumoniamnist_for_its_289_shared_patients_and_8_shared_images(
    data_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not (data_root / "kermany_cxr" / "kermany_64_rows.csv").is_file():
        pytest.skip("real data is missing: kermany_cxr/kermany_64_rows.csv")
    monkeypatch.setenv("PHOSPHOR_DATA", str(data_root))
    with pytest.raises(DataError, match="289 patients stand in both train and val") as caught:
        run_ingest(
            load_manifest(MANIFESTS / "pneumoniamnist.yaml"), tmp_path / "c", IngestSettings(strict=True)
        )
    assert "8 groups of exact duplicate images stand in both train and val" in str(caught.value)
