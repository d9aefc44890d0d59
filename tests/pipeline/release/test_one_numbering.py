"""One numbering of classes from the manifest to whoever loads a release: that of the sorted names."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.release import read_release
from pipeline.errors import DataError, OutputExistsError, TamperedError
from pipeline.ingest import run_ingest
from pipeline.ingest.settings import IngestSettings
from pipeline.privacy.audited_set import open_audited
from pipeline.release import ReleaseSettings, run_release, verify_release
from pipeline.release.layout import COLUMNS, SUMS_NAME
from pipeline.release.tables import write_tables
from pipeline.release.verify import sums_text
from pipeline.stage import INPUTS_NAME, REFERENCE_NAME
from pipeline.storage import digest_files, digest_of, read_json, write_json
from tests.pipeline.ingest.scans import manifest_of
from tests.pipeline.release.sets import make_audit, make_candidates

WRITTEN = ("cardiomegaly", "effusion", "pneumonia", "normal")
SORTED = {"cardiomegaly": 0, "effusion": 1, "normal": 2, "pneumonia": 3}
MANIFEST = """
name: four
classes: [{classes}]
sources:
  - kind: images
    path: scans
    include: ["*/*.png"]
    label: {{folder: 0}}
    patient: {{pattern: "(pat[0-9]+)"}}
"""
SETTINGS = IngestSettings(image_size=16, workers=1, chunk_scans=8)


def ingested(folder: Path, classes: tuple[str, ...] = WRITTEN, *, force: bool = False) -> Cohort:
    """Ingest eight patients of each class, whose brightness tells the class."""
    for number, name in enumerate(WRITTEN * 8):
        path = folder / "scans" / name / f"pat{number:03d}.png"
        if path.exists():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(number).integers(0, 20, (16, 16))
        Image.fromarray((60 * SORTED[name] + noise).astype(np.uint8)).save(path)
    manifest = manifest_of(folder, MANIFEST.format(classes=", ".join(classes)))
    return Cohort(run_ingest(manifest, folder / "cohort", SETTINGS, force=force).path)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return ingested(tmp_path_factory.mktemp("ingested"))


def released(folder: Path, classes: tuple[str, ...]) -> Path:
    """Release candidates of these classes, numbered in this order."""
    candidates = make_candidates(folder / "candidates", classes=classes)
    audit = make_audit(folder / "audit", candidates)
    return run_release(candidates, audit, folder / "release", ReleaseSettings(), seed=1).path


def numbered_folders(root: Path) -> dict[str, int]:
    """Number class folders as torchvision's `ImageFolder` does (`DatasetFolder.find_classes`)."""
    names = sorted(entry.name for entry in os.scandir(root) if entry.is_dir())
    return {name: label for label, name in enumerate(names)}


def test_cohort_tables_datalist_and_folders_number_the_classes_alike(cohort: Cohort, tmp_path: Path) -> None:
    assert {name: label for label, name in enumerate(cohort.info.classes)} == SORTED
    assert [cohort.info.classes[code] for code in cohort.labels] == cohort.records()["label"].tolist()
    brightness = cohort.take(range(len(cohort.labels))).mean(axis=(1, 2, 3))
    assert (brightness // 60).astype(int).tolist() == cohort.labels.tolist()
    release = released(tmp_path, cohort.info.classes)
    for table in (pd.read_csv(release / "metadata.csv"), pd.read_parquet(release / "metadata.parquet")):
        assert dict(table[["class", "label"]].itertuples(index=False)) == SORTED
    body = json.loads((release / "datalist.json").read_text())
    assert body["labels"] == {str(label): name for name, label in SORTED.items()}
    assert {row["class"]: row["label"] for row in body["training"]} == SORTED
    assert numbered_folders(release / "images") == SORTED
    read = read_release(release, cohort)
    assert {name.rpartition("-")[0]: int(label) for name, label in
            zip(read.sample_ids, read.labels, strict=True)} == SORTED  # fmt: skip
    audited = open_audited(release / "images", cohort).table
    assert dict(audited[["class", "label"]].itertuples(index=False)) == SORTED
    card = (release / "DATASET_CARD.md").read_text()
    assert "0 cardiomegaly, 1 effusion, 2 normal, 3 pneumonia.\nThe tables" in card


def test_datasets_numbers_the_folders_as_the_tables_do(
    cohort: Cohort, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    release = released(tmp_path, cohort.info.classes)
    loaded = datasets.load_dataset(
        "imagefolder", data_dir=str(release / "images"), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert {name: loaded.features["label"].str2int(name) for name in SORTED} == SORTED
    table = pd.read_csv(release / "metadata.csv")
    assert sorted(loaded["label"]) == sorted(table["label"])


def test_the_order_of_classes_in_a_manifest_changes_nothing(tmp_path: Path) -> None:
    first = ingested(tmp_path)
    again = ingested(tmp_path, tuple(reversed(WRITTEN)))
    assert again.digest == first.digest


@pytest.mark.parametrize("names", [("Mass", "mass-2", "mass.2", "mass_2"), ("B", "a"), ("a", "a-b", "ab")])
def test_case_dots_and_dashes_sort_as_folders_do(tmp_path: Path, names: tuple[str, ...]) -> None:
    release = released(tmp_path, tuple(sorted(names)))
    table = pd.read_parquet(release / "metadata.parquet")
    assert dict(table[["class", "label"]].itertuples(index=False)) == numbered_folders(release / "images")


def test_a_release_of_some_classes_keeps_the_cohorts_numbers_and_says_so(
    cohort: Cohort, tmp_path: Path
) -> None:
    candidates = make_candidates(tmp_path / "candidates", classes=cohort.info.classes, only=("normal",))
    audit = make_audit(tmp_path / "audit", candidates)
    release = run_release(candidates, audit, tmp_path / "release", ReleaseSettings(), seed=1).path
    verify_release(release)
    assert set(pd.read_csv(release / "metadata.csv")["label"]) == {SORTED["normal"]}
    assert set(read_release(release, cohort).labels.tolist()) == {SORTED["normal"]}
    card = (release / "DATASET_CARD.md").read_text()
    assert "2 normal.\nThe other indices belong to classes" in card
    assert "take the label from the tables" in card


def test_candidates_of_another_numbering_are_neither_audited_nor_released(
    cohort: Cohort, tmp_path: Path
) -> None:
    candidates = make_candidates(tmp_path / "candidates", classes=WRITTEN)
    with pytest.raises(DataError, match=r"label 2, but 3 in the cohort.*pneumonia.*trained on this cohort"):
        open_audited(candidates, cohort)
    audit = make_audit(tmp_path / "audit", candidates)
    with pytest.raises(DataError, match=r"not numbered by their sorted names.*ingest and train again"):
        run_release(candidates, audit, tmp_path / "release", ReleaseSettings(), seed=1)
    assert not (tmp_path / "release").exists()


def test_verify_refuses_a_release_whose_tables_number_otherwise(tmp_path: Path) -> None:
    """What an earlier version released: every digest is right, and the folders say another number."""
    release = released(tmp_path, tuple(SORTED))
    table = pd.read_parquet(release / "metadata.parquet")
    classes = {name: label for label, name in enumerate(WRITTEN)}
    rows = [
        {name: None if pd.isna(value) else value for name, value in row.items()}
        for row in table.assign(label=table["class"].map(classes)).to_dict("records")
    ]
    assert set(rows[0]) == set(COLUMNS)
    write_tables(release, rows, dict(sorted(classes.items())))
    body = read_json(release / REFERENCE_NAME, role="release")
    body["files"] = digest_files(release, list(body["files"]))
    body["digest"] = digest_of(body["files"])
    write_json(release / REFERENCE_NAME, body)
    names = [
        path.relative_to(release).as_posix()
        for path in release.rglob("*")
        if path.is_file() and path.name != SUMS_NAME
    ]
    (release / SUMS_NAME).write_text(sums_text(digest_files(release, names)))
    with pytest.raises(TamperedError, match="sorted names of their folders"):
        verify_release(release)


def as_earlier_version(cohort: Cohort) -> None:
    """Turn a cohort into what version 4 wrote: labels in the manifest's order."""
    folder = cohort.folder
    info, inputs, reference = (
        read_json(folder / name, role="test") for name in ("cohort.json", INPUTS_NAME, REFERENCE_NAME)
    )
    info["classes"] = list(WRITTEN)
    codes = np.array([WRITTEN.index(name) for name in cohort.records()["label"]], dtype=np.uint8)
    np.save(folder / "labels.npy", codes)
    write_json(folder / "cohort.json", info)
    inputs["version"] = 4
    del inputs["inputs_digest"]
    inputs["inputs_digest"] = reference["inputs_digest"] = digest_of(inputs)
    write_json(folder / INPUTS_NAME, inputs)
    reference["files"] = digest_files(folder, list(reference["files"]))
    reference["digest"] = digest_of(reference["files"])
    write_json(folder / REFERENCE_NAME, reference)


def test_a_cohort_of_an_earlier_version_is_refused_and_made_again_with_its_split(tmp_path: Path) -> None:
    made = ingested(tmp_path)
    sides = made.records().set_index("patient_id")[["split", "audit"]]
    as_earlier_version(made)
    with pytest.raises(DataError, match=r"sorted names.*earlier version.*--force` keeps every patient"):
        Cohort(made.folder)
    with pytest.raises(OutputExistsError, match="--force"):
        ingested(tmp_path)
    again = ingested(tmp_path, force=True)
    assert {name: label for label, name in enumerate(again.info.classes)} == SORTED
    assert again.records().set_index("patient_id")[["split", "audit"]].equals(sides)
