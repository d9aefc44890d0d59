"""Cohorts of real DICOM files are clean against their sources, with every name of a person searched for."""

from __future__ import annotations

import shutil
from pathlib import Path

import pydicom
import pytest

from pipeline.ingest import run_ingest
from pipeline.ingest.settings import IngestSettings
from pipeline.manifest import Manifest
from pipeline.residual.values.collecting import collect_values
from pipeline.residual.values.source_values import NAME
from pipeline.residual.verify_source import verify_against

COHORTS = {
    "transfer syntaxes": ("dicom_transfer_syntaxes", ["**/*.dcm"]),
    "lossless and lossy JPEG": ("dicom_transfer_syntaxes", ["*JPEG*.dcm", "CT0012*.dcm"]),
    "colour, run lengths, no pixels": ("dicom_transfer_syntaxes", ["US-*.dcm", "no-*.dcm", "*RLE*.dcm"]),
    "native": ("dicom_transfer_syntaxes", ["CTImage.dcm", "*Endian*.dcm", "CT0012*.dcm"]),
    "radiographs": ("dicom_xray", ["RG*"]),
}


def alarms(folder: Path, include: list[str], out: Path) -> tuple[list[str], int]:
    """Ingest files, hold the cohort against them; return what is found and how many names were searched."""
    source = {
        "kind": "dicom", "path": str(folder), "include": include, "frames": "first", "colour": "grey",
        "headless": True, "label": {"value": "scan"}, "patient": {"tag": "PatientID"},
    }  # fmt: skip
    manifest = Manifest.model_validate({"name": "pydicom_and_more", "sources": [source]}).located(out)
    settings = IngestSettings(image_size=32, max_reject_share=1.0, near_duplicates="off", workers=1)
    run_ingest(manifest, out / "cohort", settings)
    with collect_values(manifest) as values:
        report = verify_against(out / "cohort", values)
    found = [leak.sentence() for leak in report.leaks] + [reason for _, reason in report.not_searched]
    return found + list(report.source.unread.values()), report.searched[NAME]


@pytest.mark.parametrize("cohort", COHORTS)
def test_a_cohort_of_real_files_gives_no_alarm(data_root: Path, tmp_path: Path, cohort: str) -> None:
    name, include = COHORTS[cohort]
    if not (data_root / name).is_dir():
        pytest.skip(f"real data is missing: {data_root / name}")
    found, names = alarms(data_root / name, include, tmp_path)
    assert found == []
    assert names > 5


def test_a_cohort_of_pydicoms_files_gives_no_alarm(tmp_path: Path) -> None:
    """Names like First and Last, keywords of DICOM in private elements, palettes, both byte orders."""
    scans = tmp_path / "scans"
    scans.mkdir()
    for path in (Path(pydicom.__file__).parent / "data" / "test_files").glob("*.dcm"):
        # One has a stray byte in front and is no DICOM file for anybody.
        if path.name != "no_meta.dcm":
            shutil.copy(path, scans)
    found, names = alarms(scans, ["*.dcm"], tmp_path)
    assert found == []
    assert names > 50
