"""Patient ids as people read them: look-alikes are told, stand-ins are no ids, a large patient is told."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.artifacts.cohort import Cohort, PatientIds
from pipeline.errors import DataError, ManifestError
from pipeline.ingest import run_ingest
from pipeline.ingest.settings import IngestSettings
from pipeline.ingest.splitting.patients import crowded_rows, id_notes, is_large, split_ids
from pipeline.manifest import Manifest, load_manifest
from pipeline.sources.folders import NO_PATIENT
from pipeline.sources.listing import list_scans
from pipeline.sources.tables.patient_ids import STAND_IN
from tests.cohorts import draw
from tests.flows.conftest import Call, call
from tests.pipeline.sources.dicom.dicoms import header, written

__all__ = ["call"]

SETTINGS = IngestSettings(image_size=16, workers=1, near_duplicates="off")
TWO_TABLES = """
name: two-tables
sources:
  - kind: images
    path: one
    table: {path: one.csv}
    label: {column: label}
    patient: {column: patient}
  - kind: images
    path: two
    table: {path: two.csv}
    label: {column: label}
    patient: {column: patient}
"""


def table(folder: Path, name: str, patients: list[str]) -> None:
    """Write drawn images below `folder/name` and a table of their patients and labels."""
    rng = np.random.default_rng(ord(name[0]))
    (folder / name).mkdir(parents=True)
    rows = []
    for number, patient in enumerate(patients):
        Image.fromarray(draw(number % 2, 24, rng)).save(folder / name / f"{number:03d}.png")
        rows.append({"file": f"{number:03d}.png", "label": ("disc", "bar")[number % 2], "patient": patient})
    pd.DataFrame(rows).to_csv(folder / f"{name}.csv", index=False)


def two_tables(folder: Path, one: list[str], two: list[str], text: str = TWO_TABLES) -> Manifest:
    table(folder, "one", one)
    table(folder, "two", two)
    (folder / "m.yaml").write_text(text)
    return load_manifest(folder / "m.yaml")


def dicom_and_table(folder: Path, ids: list[str], headers: list[str]) -> Manifest:
    """Write images with a table of ids, and DICOM files with ids in their headers."""
    table(folder, "one", ids)
    rng = np.random.default_rng(5)
    (folder / "dcm").mkdir()
    rows = []
    for number, patient in enumerate(headers):
        name = f"{number:03d}.dcm"
        pixels = draw(number % 2, 24, rng).astype(np.uint16)
        (folder / "dcm" / name).write_bytes(written(header(pixels, PatientID=patient)))
        rows.append({"file": name, "label": ("disc", "bar")[number % 2]})
    pd.DataFrame(rows).to_csv(folder / "dcm.csv", index=False)
    second = "  - kind: dicom\n    path: dcm\n    table: {path: dcm.csv}\n    label: {column: label}\n"
    first = TWO_TABLES[: TWO_TABLES.index("  - kind: images\n    path: two")]
    (folder / "m.yaml").write_text(first + second + "    patient: {tag: PatientID}\n")
    return load_manifest(folder / "m.yaml")


PADDED, PLAIN = [f"{number:05d}" for number in range(7, 37)], [str(number) for number in range(7, 37)]


def test_look_alikes_of_two_tables_are_told_with_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, call: Call
) -> None:
    manifest = two_tables(tmp_path, PADDED, PLAIN)
    caplog.set_level(logging.WARNING)
    cohort = Cohort(run_ingest(manifest, tmp_path / "c", SETTINGS).path)
    assert cohort.info.num_patients == 60
    ids = cohort.info.patient_ids
    assert ids is not None
    assert (ids.look_alike, ids.would_be) == (60, 30)
    assert len(set(cohort.records()["patient_id"])) == 60
    # The two tables are in one order, so that scans i and 30 + i are one person's.
    assert ids.on_two_sides == (cohort.split[:30] != cohort.split[30:]).sum()
    told = "60 patient ids look alike"
    crossing = f"they would be 30, of whom {ids.on_two_sides} stand on two sides"
    assert (ids.on_two_sides or 0) >= 10
    for text in (
        caplog.text,
        (tmp_path / "c" / "qc.html").read_text(),
        (tmp_path / "c" / "cohort.json").read_text(),
    ):
        assert told in text
        assert crossing in text
    done = call("validate", str(tmp_path / "m.yaml"))
    assert done.code == 0, done.err
    assert f"{told} (leading zeros" in done.err
    assert "they would be 30\n" in done.err
    assert done.last_line["patient_ids"]["look_alike"] == 60
    assert done.last_line["patient_ids"]["would_be"] == 30


def test_the_number_on_two_sides_is_that_of_the_would_be_patients() -> None:
    patients, alike = np.array([0, 1, 2, 3, 4, 4, 5]), np.array([0, 0, 2, 2, 4, 5])
    side = np.array([0, 3, 1, 1, 0, 0, 2])
    found = split_ids(patients, alike, side)
    assert found == PatientIds(scans=7, patients=6, largest=2, look_alike=4, would_be=2, on_two_sides=1)


def test_strict_refuses_look_alikes_before_anything_is_read_and_names_the_remedy(tmp_path: Path) -> None:
    manifest = two_tables(tmp_path, PADDED, PLAIN)
    for picture in (tmp_path / "two").glob("*.png"):
        picture.write_bytes(b"unread")
    with pytest.raises(DataError, match=r"60 patient ids look alike.*would be 30.*patient\.prefix") as caught:
        run_ingest(manifest, tmp_path / "c", SETTINGS.model_copy(update={"strict": True}))
    assert "00007" not in str(caught.value)
    assert not (tmp_path / "c" / "cohort.json").exists()


def test_a_prefix_keeps_equal_numbers_of_two_sources_apart_under_strict(tmp_path: Path) -> None:
    text = TWO_TABLES.replace("patient: {column: patient}", 'patient: {column: patient, prefix: "a-"}', 1)
    manifest = two_tables(tmp_path, PADDED, PLAIN, text)
    cohort = Cohort(run_ingest(manifest, tmp_path / "c", SETTINGS.model_copy(update={"strict": True})).path)
    assert cohort.info.patient_ids is not None
    assert cohort.info.patient_ids.look_alike == 0


@pytest.mark.parametrize("strict", [False, True])
def test_an_id_in_a_header_looks_like_one_in_a_table(tmp_path: Path, strict: bool, call: Call) -> None:
    manifest = dicom_and_table(tmp_path, PLAIN, PADDED)
    settings = SETTINGS.model_copy(update={"strict": strict})
    done = call("validate", str(tmp_path / "m.yaml"))
    assert "30 scans have the patient id in their header: ingest compares those ids" in done.err
    if strict:
        with pytest.raises(DataError, match=r"60 patient ids look alike.*would be 30, of whom \d+ stand"):
            run_ingest(manifest, tmp_path / "c", settings)
        return
    info = Cohort(run_ingest(manifest, tmp_path / "c", settings).path).info
    assert info.patient_ids is not None
    assert (info.num_patients, info.patient_ids.look_alike, info.patient_ids.would_be) == (60, 60, 30)


def refused(cohort: Path) -> dict[str, int]:
    return dict(pd.read_parquet(cohort / "rejected.parquet")["reason"].value_counts())


IDS = [f"p{number}" for number in range(30)]


@pytest.mark.parametrize("stand_in", ["ANONYMOUS", "0", "000000", "TEST", "XXX", "N/A"])
@pytest.mark.parametrize("place", ["table", "header"])
def test_a_stand_in_for_half_of_the_scans_is_nobody(tmp_path: Path, stand_in: str, place: str) -> None:
    made = {"table": two_tables, "header": dicom_and_table}[place]
    manifest = made(tmp_path, IDS, [stand_in] * 30)
    made_cohort = run_ingest(manifest, tmp_path / "c", SETTINGS)
    info = Cohort(made_cohort.path).info
    assert (info.num_scans, info.num_patients) == (30, 30)
    assert refused(made_cohort.path) == {STAND_IN: 30}
    assert made_cohort.counts["rejected"] == 30
    assert any(note.startswith("30 scans are refused: patient id is a placeholder") for note in info.notes)
    assert STAND_IN in (tmp_path / "c" / "qc.html").read_text()


def test_a_stand_in_is_treated_as_an_empty_id_is_and_told_by_validate(tmp_path: Path, call: Call) -> None:
    manifest = two_tables(tmp_path, IDS, ["Anonymous"] * 10 + [""] * 10 + ["-"] * 10)
    reasons = [task.refusal for task in list_scans(manifest).tasks[30:]]
    assert reasons == [STAND_IN] * 10 + [NO_PATIENT] * 10 + [STAND_IN] * 10
    done = call("validate", str(tmp_path / "m.yaml"))
    assert f"refused: 20 scans ({STAND_IN})" in done.err
    text = TWO_TABLES.replace("patient: {column: patient}", "patient: {column: patient, unmatched: own}")
    (tmp_path / "m.yaml").write_text(text)
    lenient = list_scans(load_manifest(tmp_path / "m.yaml"))
    assert len({task.patient for task in lenient.tasks}) == 60
    assert not any(task.refusal for task in lenient.tasks)
    assert "30 scans without a patient id count as one patient each (unmatched)" in lenient.notes


def test_a_doubtful_crowd_also_counts_as_without_an_id_under_unmatched(tmp_path: Path) -> None:
    text = TWO_TABLES.replace("patient: {column: patient}", "patient: {column: patient, unmatched: own}")
    listing = list_scans(two_tables(tmp_path, IDS, ["0"] * 30, text))
    assert len({task.patient for task in listing.tasks}) == 60


def test_a_patient_0_of_an_archive_that_counts_from_0_is_kept(tmp_path: Path) -> None:
    numbers = [str(number // 2) for number in range(30)]
    manifest = two_tables(tmp_path, numbers, [str(100 + number) for number in range(30)])
    assert sum(task.patient == "0" for task in list_scans(manifest).tasks) == 2


def test_a_crowd_in_headers_counts_against_the_largest_share_of_refused_scans(tmp_path: Path) -> None:
    manifest = dicom_and_table(tmp_path, IDS, ["0"] * 30)
    with pytest.raises(DataError, match=r"30 of 60 scans cannot be used: patient id is a placeholder"):
        run_ingest(manifest, tmp_path / "c", SETTINGS.model_copy(update={"max_reject_share": 0.3}))


def test_a_crowd_is_told_by_its_rows() -> None:
    patients = np.array([0] * 9 + [1, 1, 2, -1])
    usable = np.ones(13, dtype=bool)
    usable[0] = False
    found = crowded_rows(usable, patients, np.array([True, False, False]))
    assert np.flatnonzero(found).tolist() == [*range(1, 9)]
    assert not crowded_rows(usable, patients, np.array([False, False, False])).any()


def test_the_largest_patient_is_told_and_a_large_one_warned_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, call: Call
) -> None:
    manifest = two_tables(tmp_path, IDS, ["ward7"] * 20 + [f"q{number}" for number in range(10)])
    caplog.set_level(logging.INFO)
    made = run_ingest(manifest, tmp_path / "c", SETTINGS)
    assert "one patient has 20 of 60 scans (33.3 %)" in caplog.text
    body: dict[str, Any] = json.loads((made.path / "cohort.json").read_text())
    assert body["patient_ids"]["largest"] == 20
    assert any(note.startswith("one patient has 20 of 60 scans") for note in body["notes"])
    page = (made.path / "qc.html").read_text()
    assert '<li class="alarm"><b>33.3 %</b>of the scans come from the patient with the most</li>' in page
    done = call("validate", str(tmp_path / "m.yaml"))
    assert "the largest patient has 20 of 60 scans (33.3 %)" in done.err
    assert "one patient has 20 of 60 scans" in done.err
    assert "ward7" not in done.err + done.out + caplog.text


def test_even_shares_of_a_small_cohort_are_no_warning() -> None:
    assert not is_large(PatientIds(scans=24, patients=12, largest=4))
    assert not is_large(PatientIds(scans=1000, patients=500, largest=50))
    assert is_large(PatientIds(scans=1000, patients=500, largest=51))
    assert is_large(PatientIds(scans=60, patients=31, largest=30))
    assert id_notes(PatientIds(scans=60, patients=30, largest=2)) == []


def test_a_stand_in_of_a_separate_patient_table_is_nobody(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    arrays = {
        "images": np.stack([draw(number % 2, 28, rng) for number in range(12)]),
        "labels": np.arange(12) % 2,
    }
    np.savez(tmp_path / "a.npz", **arrays)
    ids = ["p0", "p1", "unknown", "0", "0", "0", "0", "0", "p2", "", "p3", "p4"]
    rows = [f"all,{number},{patient}" for number, patient in enumerate(ids)]
    (tmp_path / "p.csv").write_text("split,index,patient\n" + "\n".join(rows) + "\n")
    text = """
name: archive
sources:
  - kind: medmnist
    path: a.npz
    labels: {0: disc, 1: bar}
    patient: {table: p.csv, keys: [split, index], column: patient}
"""
    (tmp_path / "m.yaml").write_text(text)
    listing = list_scans(load_manifest(tmp_path / "m.yaml"))
    assert [bool(task.refusal) for task in listing.tasks] == [not text.startswith("p") for text in ids]
    assert any(note.startswith("7 of 12 images have no patient") for note in listing.notes)


def test_a_tag_takes_no_rule_for_scans_without_an_id(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="unmatched requires column, pattern or table"):
        dicom_and_table(tmp_path, ["1"], ["2"])
        text = (
            (tmp_path / "m.yaml").read_text().replace("{tag: PatientID}", "{tag: PatientID, unmatched: own}")
        )
        (tmp_path / "m.yaml").write_text(text)
        load_manifest(tmp_path / "m.yaml")


def test_patients_whose_ids_are_written_otherwise_than_before_are_missed_and_counted(tmp_path: Path) -> None:
    text = TWO_TABLES[: TWO_TABLES.index("  - kind: images\n    path: two")]
    first = two_tables(tmp_path, [*PADDED[:20], *IDS[:10]], ["x"], text)
    run_ingest(first, tmp_path / "c", SETTINGS)
    rows = pd.read_csv(tmp_path / "one.csv", dtype=str)
    rows["patient"] = [*PLAIN[:20], *IDS[:10]]
    rows.to_csv(tmp_path / "one.csv", index=False)
    again = load_manifest(tmp_path / "m.yaml")
    notes = Cohort(run_ingest(again, tmp_path / "c", SETTINGS, force=True).path).info.notes
    assert "10 patients of an earlier cohort keep their split and audit role" in notes
    assert any(
        note.startswith("20 of 30 patients of the earlier cohort are not among these") for note in notes
    )
