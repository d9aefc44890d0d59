"""500 DICOM files with planted headers: nothing of them is in a cohort or its logs, and all are collected."""

from __future__ import annotations

import io
import logging
from pathlib import Path

import pandas as pd
import pydicom
import pytest

from pipeline.ingest import run_ingest
from pipeline.ingest.settings import IngestSettings
from pipeline.manifest import Manifest
from pipeline.phantom import PhantomSettings, planted_values, write_phantom_cohort
from pipeline.residual import FindingKind, problems, scan_for_values
from pipeline.residual.values.collecting import collect_values
from pipeline.residual.verify_source import verify_against

FILES = {"small": 20, "large": 500}


def manifest_of(folder: Path) -> Manifest:
    source = {
        "kind": "dicom",
        "path": str(folder),
        "include": ["dicom/**/*"],
        "table": {"path": str(folder / "labels.csv")},
        "label": {"column": "label"},
        "patient": {"tag": "PatientID"},
    }
    return Manifest.model_validate({"name": "planted", "sources": [source]}).located(folder)


def header_of(path: Path) -> bytes:
    """Return a file without its pixels: what a careless export keeps."""
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    kept = io.BytesIO()
    dataset.save_as(kept)
    return kept.getvalue()


@pytest.mark.parametrize("size", ["small", pytest.param("large", marks=pytest.mark.slow)])
def test_planted_headers_stay_out_and_a_control_that_keeps_them_is_caught(
    size: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scans, private = tmp_path / "scans", tmp_path / "private"
    settings = PhantomSettings(
        num_patients=FILES[size], images_per_patient=(1, 1), image_size=32, nifti_share=0.0
    )
    assert write_phantom_cohort(scans, settings).num_dicom == FILES[size]
    planted = planted_values(scans)
    manifest = manifest_of(scans)
    with caplog.at_level(logging.DEBUG):
        run_ingest(manifest, private / "cohort", IngestSettings(image_size=16, workers=1))
    (private / "log.txt").write_text(caplog.text, encoding="utf-8")
    assert "patients" in caplog.text
    assert problems(scan_for_values(private, planted)) == []

    with collect_values(manifest) as values:
        known = {text for batch in values.batches() for value in batch for text in value.texts}
        assert [value for value in planted if value not in known] == []
        report = verify_against(private, values)
        assert report.clean
        assert sum(report.searched.values()) > 20 * FILES[size]

        files = sorted((scans / "dicom").rglob("*.dcm"))
        names = [str(path.relative_to(scans)) for path in files]
        kept = pd.DataFrame({"name": names, "header": [header_of(path) for path in files]})
        kept.to_parquet(private / "cohort" / "kept.parquet", compression="zstd")
        found = scan_for_values(private, planted)
        hit = {finding.value_number for finding in found if finding.kind is FindingKind.FOUND}
        short = {finding.value_number for finding in found if finding.kind is FindingKind.TOO_SHORT}
        assert hit | short == set(range(len(planted)))
        assert len(hit) > 15 * FILES[size]
        caught = verify_against(private, values)
        assert not caught.clean
        assert {file for leak in caught.leaks for file in leak.files} == {"cohort/kept.parquet"}
