"""The phantom through ingest: DICOM and NIfTI side by side, and none of the planted values in any output."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.cohort import ATTRIBUTES, Cohort
from pipeline.artifacts.conditions import CohortConditions
from pipeline.ingest import run_ingest
from pipeline.ingest.settings import IngestSettings
from pipeline.manifest import load_manifest
from pipeline.phantom import planted_values
from pipeline.residual import FindingKind, problems, scan_for_values
from pipeline.sources.listing import list_scans
from pipeline.sources.phantom import phantom_folder, phantom_settings
from pipeline.sources.reading import read_scan

MANIFEST = Path(__file__).resolve().parents[3] / "data_manifests" / "phantom.yaml"
PATIENTS = 30
SETTINGS = IngestSettings(image_size=32, phantom_patients=PATIENTS)


@pytest.fixture(scope="module")
def logged() -> list[str]:
    return []


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, logged: list[str]) -> Cohort:
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("pipeline")
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.DEBUG)
    try:
        manifest = load_manifest(MANIFEST)
        return Cohort(run_ingest(manifest, tmp_path_factory.mktemp("phantom") / "cohort", SETTINGS).path)
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def folder() -> Path:
    return phantom_folder(phantom_settings(load_manifest(MANIFEST).sources[0], PATIENTS))  # type: ignore[arg-type]


def test_both_formats_are_read_and_every_file_is_used(cohort: Cohort) -> None:
    records = cohort.records()
    kinds = records["source_format"].value_counts()
    assert {"dicom CR", "dicom DX", "nifti"} == set(kinds.index)
    assert cohort.info.num_patients == PATIENTS
    assert cohort.reference.counts["rejected"] == 0
    assert (records.groupby("patient_id")["label"].nunique() == 1).all()
    assert (records["spacing_mm"] > 0).all()
    assert set(records["sex"]) <= {"F", "M"}


def test_attributes_and_patients_are_kept_as_codes_for_training(cohort: Cohort) -> None:
    records, codes = cohort.records(), cohort.attributes()
    for column, name in enumerate(ATTRIBUTES):
        values = (*cohort.info.attributes[name], *[""] * 256)
        assert [values[code] for code in codes[:, column]] == list(records[name])
    assert cohort.info.attributes["sex"] == ("F", "M")
    pairs = set(zip(records["patient_id"], cohort.patients().tolist(), strict=True))
    assert len(pairs) == PATIENTS == len(np.unique(cohort.patients()))
    assert [field.name for field in CohortConditions(cohort, ("sex", "age_band")).fields] == [
        "sex",
        "age_band",
    ]


def test_every_image_has_the_same_sense_and_orientation(cohort: Cohort) -> None:
    images = cohort.images(np.arange(len(cohort.shards)))[:, 0]
    mean = images.mean(axis=0).ravel()
    for image, kind in zip(images, cohort.records()["source_format"], strict=True):
        assert np.corrcoef(image.ravel(), mean)[0, 1] > 0.5, kind


def test_no_planted_value_is_in_any_output_or_log(cohort: Cohort, logged: list[str], tmp_path: Path) -> None:
    values = planted_values(folder())
    assert len(values) > 100
    (tmp_path / "log.txt").write_text("\n".join(logged), encoding="utf-8")
    assert logged
    assert problems(scan_for_values(cohort.folder, values)) == []
    assert problems(scan_for_values(tmp_path, values)) == []


def test_the_same_scanner_finds_the_values_in_the_files_themselves(cohort: Cohort) -> None:
    assert cohort.info.num_patients == PATIENTS
    found = scan_for_values(folder() / "dicom", planted_values(folder()))
    assert sum(finding.kind is FindingKind.FOUND for finding in found) > 100


def test_a_task_carries_no_header_value_but_the_patient_id(cohort: Cohort) -> None:
    assert cohort.info.num_patients == PATIENTS
    listing = list_scans(load_manifest(MANIFEST), phantom_patients=PATIENTS)
    shown = {
        value
        for task in listing.tasks[:10]
        for scan in [read_scan(task)]
        for value in (scan.source_format, *scan.attributes)
    }
    bands = {f"{decade}-{decade + 9}" for decade in range(10, 90, 10)} | {"90+"}
    assert shown <= {"dicom CR", "dicom DX", "nifti", "PA", "AP", "", "F", "M"} | bands
