"""The ingest stage: what it keeps, refuses, hides, reuses and resumes."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.artifacts.cohort import Cohort
from pipeline.errors import DataError, ManifestError, OutputExistsError, UsageError
from pipeline.identity import Pseudonyms, load_key
from pipeline.ingest import run_ingest
from pipeline.ingest.reading import pool
from pipeline.ingest.settings import IngestSettings
from pipeline.stage import verify_reference
from tests.pipeline.ingest.scans import FOLDER_MANIFEST, manifest_of, write_images

SMALL = IngestSettings(image_size=16, chunk_scans=8)
ROOT = Path(__file__).resolve().parents[3]


def ingest(
    folder: Path, settings: IngestSettings = SMALL, text: str = FOLDER_MANIFEST, out: str = "c"
) -> Cohort:
    return Cohort(run_ingest(manifest_of(folder, text), folder / out, settings).path)


def rejected(cohort: Cohort) -> pd.DataFrame:
    return pd.read_parquet(cohort.folder / "rejected.parquet")


def test_a_folder_becomes_a_cohort_split_by_patient(tmp_path: Path) -> None:
    write_images(tmp_path)
    cohort = ingest(tmp_path)
    records = cohort.records()
    verify_reference(type(cohort.reference), cohort.folder)
    assert cohort.info.classes == ("bar", "disc")
    assert len(records) == 48
    assert records["patient_id"].nunique() == 24
    assert (records.groupby("patient_id")["split"].nunique() == 1).all()
    assert set(records["split"]) == {"train", "val", "test", "holdout"}
    assert [cohort.info.classes[code] for code in cohort.labels] == records["label"].tolist()
    train = cohort.images(cohort.rows("train"))
    assert cohort.info.pixel_mean == pytest.approx(float(train.mean()), abs=1e-5)
    assert cohort.info.pixel_std == pytest.approx(float(train.std()), abs=1e-5)


def test_pixels_are_those_of_the_named_file(tmp_path: Path) -> None:
    scans = write_images(tmp_path, size=16)
    cohort = ingest(tmp_path)
    names = {Pseudonyms(load_key()).scan(str(p.relative_to(scans))): p for p in scans.rglob("*.png")}
    for row, sample in enumerate(cohort.records()["sample_id"]):
        assert (cohort.take([row])[0, 0] == np.asarray(Image.open(names[sample]))).all()


def test_outputs_are_private_and_hold_no_file_name_or_path(tmp_path: Path) -> None:
    write_images(tmp_path)
    cohort = ingest(tmp_path)
    assert stat.S_IMODE(cohort.folder.stat().st_mode) == 0o700
    for path in cohort.folder.iterdir():
        if path.name == ".lock":
            continue
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path.name
        text = path.read_bytes()
        if path.suffix == ".parquet":
            text = pd.read_parquet(path).to_csv().encode()
        for word in (b"Smith", b"pat00", str(tmp_path).encode()):
            assert word not in text, path.name
    assert not (cohort.folder / "parts").exists()
    page = (cohort.folder / "qc.html").read_text()
    assert page.count("data:image/png") == 2
    assert "PRIVATE" in page
    assert "http" not in page


def test_a_corrupt_file_among_good_ones_is_listed_by_hashed_id_and_reason(tmp_path: Path) -> None:
    scans = write_images(tmp_path)
    bad = scans / "disc" / "pat000_Smith_0.png"
    bad.write_bytes(bad.read_bytes()[:50])
    cohort = ingest(tmp_path)
    assert rejected(cohort).to_dict("records") == [
        {
            "sample_id": Pseudonyms(load_key()).scan("disc/pat000_Smith_0.png"),
            "reason": "truncated image",
            "source_format": "images",
        }
    ]
    assert cohort.reference.counts == {"scans": 47, "patients": 24, "rejected": 1}


def test_one_process_and_a_pool_of_two_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path)
    monkeypatch.setattr(pool, "POOL_PAYS_SECONDS", 0.0)
    monkeypatch.setattr(pool, "PROBE_SECONDS", 0.0)
    started = []
    real = pool._pooled
    monkeypatch.setattr(pool, "_pooled", lambda *args: started.append(1) or real(*args))
    one = ingest(tmp_path, SMALL.model_copy(update={"workers": 1}), out="one")
    two = ingest(tmp_path, SMALL.model_copy(update={"workers": 2}), out="two")
    chunks = ingest(tmp_path, SMALL.model_copy(update={"chunk_scans": 5}), out="three")
    assert started
    assert one.digest == two.digest == chunks.digest
    assert one.reference.inputs_digest == two.reference.inputs_digest


def test_the_place_of_the_data_does_not_change_the_content(tmp_path: Path) -> None:
    write_images(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert ingest(tmp_path / "a").digest == ingest(tmp_path / "b").digest


def test_the_same_inputs_are_reused_and_other_inputs_refused(tmp_path: Path) -> None:
    scans = write_images(tmp_path)
    first = ingest(tmp_path)
    before = (first.folder / "pixels-00000.npy").stat().st_mtime_ns
    assert ingest(tmp_path).digest == first.digest
    assert (first.folder / "pixels-00000.npy").stat().st_mtime_ns == before
    with pytest.raises(OutputExistsError):
        ingest(tmp_path, SMALL.model_copy(update={"split_seed": 1}))
    shutil.copy(scans / "disc" / "pat000_Smith_0.png", scans / "disc" / "pat090_Smith_0.png")
    with pytest.raises(OutputExistsError):
        ingest(tmp_path)
    forced = run_ingest(manifest_of(tmp_path), tmp_path / "c", SMALL, force=True)
    assert forced.digest != first.digest


def test_killed_and_run_again_it_ends_in_the_same_bytes_without_reading_twice(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_images(tmp_path, patients=60, images=3, size=200)
    settings = SMALL.model_copy(update={"workers": 1, "chunk_scans": 4})
    undisturbed = ingest(tmp_path, settings, out="whole")
    code = (
        "from pathlib import Path\n"
        "from pipeline.ingest import run_ingest\n"
        "from pipeline.ingest.settings import IngestSettings\n"
        "from pipeline.manifest import load_manifest\n"
        f"folder = Path({str(tmp_path)!r})\n"
        "settings = IngestSettings(image_size=16, workers=1, chunk_scans=4)\n"
        "run_ingest(load_manifest(folder / 'manifest.yaml'), folder / 'c', settings)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, env={**os.environ})
    parts = tmp_path / "c" / "parts"
    while child.poll() is None and len(list(parts.glob("part-*.zip"))) < 5:
        time.sleep(0.005)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    kept = {path: path.stat().st_mtime_ns for path in parts.glob("part-*.zip")}
    assert 5 <= len(kept) < 45
    damaged = max(kept)
    damaged.write_bytes(damaged.read_bytes()[:100])
    with caplog.at_level("INFO"):
        resumed = ingest(tmp_path, settings)
    assert "scans are finished" in caplog.text
    assert resumed.digest == undisturbed.digest
    assert not parts.exists()


def test_without_patient_ids_it_says_so_in_red(tmp_path: Path) -> None:
    write_images(tmp_path)
    cohort = ingest(tmp_path, text=FOLDER_MANIFEST.replace('    patient: {pattern: "(pat[0-9]+)_"}\n', ""))
    assert not cohort.info.has_patient_ids
    assert cohort.info.notes[0].startswith("no patient ids")
    assert cohort.info.num_patients == 48
    assert 'class="alarm">No patient ids' in (cohort.folder / "qc.html").read_text()


def test_a_scan_whose_patient_cannot_be_told_is_refused(tmp_path: Path) -> None:
    scans = write_images(tmp_path)
    shutil.copy(scans / "disc" / "pat000_Smith_0.png", scans / "disc" / "unnamed.png")
    assert rejected(ingest(tmp_path))["reason"].tolist() == ["patient unknown"]


TABLE = """
name: tabled
sources:
  - kind: images
    path: scans
    table: {path: table.csv, joins: [{path: more.csv, columns: {given: part}}]}
    label: {column: label}
    patient: {column: patient}
    published_splits: {official: given}
    attributes: {sex: sex, age: age}
split: {keep_test: official}
"""


def write_tables(folder: Path) -> pd.DataFrame:
    scans = write_images(folder)
    names = sorted(str(path.relative_to(scans)) for path in scans.rglob("*.png"))
    table = pd.DataFrame({"file": names, "label": [name.split("/")[0] for name in names]})
    table["patient"] = [name.split("/")[1][:6] for name in names]
    table["sex"], table["age"] = "F", 33
    table.to_csv(folder / "table.csv", index=False)
    number = table["patient"].str[3:].astype(int)
    parts = pd.DataFrame({"file": names, "part": np.where(number < 6, "test", "train")})
    parts.iloc[::-1].to_csv(folder / "more.csv", index=False)
    return table


def test_a_published_test_part_is_kept_and_its_patients_leave_the_pool(tmp_path: Path) -> None:
    table = write_tables(tmp_path)
    parts = pd.read_csv(tmp_path / "more.csv")
    strayed = table.loc[table["patient"] == "pat000", "file"].iloc[0]
    parts.loc[parts["file"] == strayed, "part"] = "train"
    parts.to_csv(tmp_path / "more.csv", index=False)
    cohort = ingest(tmp_path, text=TABLE)
    assert sum(cohort.info.counts["test"].values()) == 11
    assert rejected(cohort)["reason"].tolist() == ["patient stands in the kept test split"]
    assert "published split official: 1 patients stand in both train and test" in cohort.info.notes
    records = cohort.records()
    assert set(records["sex"]) == {"F"}
    assert set(records["age_band"]) == {"30-39"}


def test_a_pool_duplicate_of_a_test_image_is_dropped_and_others_stay_on_one_side(tmp_path: Path) -> None:
    table = write_tables(tmp_path).set_index("patient")["file"]
    scans = tmp_path / "scans"
    files = {patient: table.loc[patient].iloc[0] for patient in ("pat000", "pat008", "pat010", "pat012")}
    shutil.copy(scans / files["pat000"], scans / files["pat008"])
    shutil.copy(scans / files["pat010"], scans / files["pat012"])
    cohort = ingest(tmp_path, text=TABLE)
    assert rejected(cohort)["reason"].tolist() == ["exact duplicate of a test scan"]
    records = cohort.records().set_index("sample_id")
    twins = [Pseudonyms(load_key()).scan(files[name]) for name in ("pat010", "pat012")]
    assert records.loc[twins, "split"].nunique() == 1
    assert set(records.loc[twins, "qc_flags"]) == {"duplicate"}
    assert "2 groups of exact duplicate images (1 in test-train, 1 in train)" in cohort.info.notes


def test_table_mistakes_are_named(tmp_path: Path) -> None:
    table = write_tables(tmp_path)
    with pytest.raises(ManifestError, match="no column 'labl'"):
        ingest(tmp_path, text=TABLE.replace("{column: label}", "{column: labl}"))
    table.iloc[1:].to_csv(tmp_path / "table.csv", index=False)
    gone = table["file"].iloc[-1]
    (tmp_path / "scans" / gone).unlink()
    reasons = rejected(ingest(tmp_path, text=TABLE))["reason"].tolist()
    assert sorted(reasons) == ["file missing", "not in the table"]
    pd.concat([table, table.iloc[:1]]).to_csv(tmp_path / "table.csv", index=False)
    with pytest.raises(DataError, match="earlier line"):
        ingest(tmp_path, text=TABLE, out="d")


def test_too_many_refusals_and_missing_folders_are_data_errors(tmp_path: Path) -> None:
    scans = write_images(tmp_path, patients=4)
    for path in sorted(scans.rglob("*.png"))[1:]:
        path.write_text("broken")
    with pytest.raises(DataError, match="7 of 8 scans cannot be used: not a PNG"):
        ingest(tmp_path)
    shutil.rmtree(scans)
    with pytest.raises(DataError, match="no such folder") as caught:
        ingest(tmp_path)
    assert caught.value.exit_code == 3
    scans.mkdir()
    with pytest.raises(DataError, match="no file to read"):
        ingest(tmp_path)


def test_a_class_with_one_image_is_refused_by_name(tmp_path: Path) -> None:
    scans = write_images(tmp_path)
    (scans / "ring").mkdir()
    Image.fromarray(np.arange(256, dtype=np.uint8).reshape(16, 16)).save(scans / "ring" / "pat099_x.png")
    with pytest.raises(DataError, match="class ring: has 1 usable image"):
        ingest(tmp_path)


def test_the_private_map_resolves_ids_outside_every_output_only(tmp_path: Path) -> None:
    scans = write_images(tmp_path)
    for place in (tmp_path / "c" / "map.parquet", tmp_path / "c" / "x" / "map.parquet"):
        with pytest.raises(UsageError, match="outside every output"):
            ingest(tmp_path, SMALL.model_copy(update={"private_map": place}))
    place = tmp_path / "safe" / "map.parquet"
    place.parent.mkdir()
    cohort = ingest(tmp_path, SMALL.model_copy(update={"private_map": place}))
    found = pd.read_parquet(place).set_index("sample_id")
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    records = cohort.records().set_index("sample_id")
    assert set(found.index) == set(records.index)
    assert (found.loc[records.index, "patient_id"] == records["patient_id"]).all()
    assert all((scans / name).is_file() for name in found["name"])


def test_a_cohort_of_16_bit_pixels_keeps_more_than_256_values(tmp_path: Path) -> None:
    write_images(tmp_path, size=60)
    cohort = ingest(tmp_path, IngestSettings(image_size=32, bit_depth=16))
    pixels = cohort.take(cohort.rows("train"))
    assert pixels.dtype == np.uint16
    assert len(np.unique(pixels)) > 1000
