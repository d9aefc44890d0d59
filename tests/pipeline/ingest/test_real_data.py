"""Real radiographs: the 289 shared patients, the 27 duplicate groups, and the squeezed pixel shape."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.cohort import Cohort
from pipeline.errors import DataError, ManifestError
from pipeline.ingest import run_ingest
from pipeline.ingest.settings import IngestSettings
from pipeline.manifest import load_manifest
from pipeline.sources.listing import list_scans

MANIFESTS = Path(__file__).resolve().parents[3] / "data_manifests"
SHARED = "published split medmnist: 289 patients stand in both train and val"


@pytest.fixture
def real(data_root: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("pneumoniamnist/pneumoniamnist.npz", "kermany_cxr/kermany_64_rows.csv"):
        if not (data_root / name).is_file():
            pytest.skip(f"real data is missing: {data_root / name}")
    monkeypatch.setenv("PHOSPHOR_DATA", str(data_root))
    return data_root


def by_patient(cohort: Cohort) -> None:
    records = cohort.records()
    assert (records.groupby("patient_id")["split"].nunique() == 1).all()
    for split in ("train", "val", "test", "holdout"):
        assert all(cohort.info.counts[split].values())


def test_pneumoniamnist_reports_289_shared_patients_and_shares_none_itself(
    real: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        reference = run_ingest(
            load_manifest(MANIFESTS / "pneumoniamnist.yaml"), tmp_path / "c", IngestSettings()
        )
    cohort = Cohort(reference.path)
    assert SHARED in cohort.info.notes
    assert SHARED in caplog.text
    assert "<td>289</td>" in (cohort.folder / "qc.html").read_text()
    by_patient(cohort)
    assert cohort.info.image_size == (28, 28)
    assert cohort.info.has_patient_ids
    assert cohort.info.counts["test"] == {"normal": 234, "pneumonia": 390}
    assert "27 groups of exact duplicate images (3 in test, 16 in train, 8 in train-val)" in cohort.info.notes
    with np.load(real / "pneumoniamnist" / "pneumoniamnist.npz") as archive:
        official = {image.tobytes() for image in archive["test_images"]}
    assert {image.tobytes() for image in cohort.take(cohort.rows("test"))} == official
    pool = len(cohort.rows("train")) + len(cohort.rows("val")) + len(cohort.rows("holdout"))
    assert len(cohort.rows("holdout")) / pool == pytest.approx(0.15, abs=0.03)


def test_pneumoniamnist_without_its_patient_table_goes_on_and_says_so(
    real: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "data" / "pneumoniamnist").mkdir(parents=True)
    (tmp_path / "data" / "pneumoniamnist" / "pneumoniamnist.npz").symlink_to(
        real / "pneumoniamnist" / "pneumoniamnist.npz"
    )
    monkeypatch.setenv("PHOSPHOR_DATA", str(tmp_path / "data"))
    cohort = Cohort(
        run_ingest(load_manifest(MANIFESTS / "pneumoniamnist.yaml"), tmp_path / "c", IngestSettings()).path
    )
    assert not cohort.info.has_patient_ids
    assert "no patient ids" in cohort.info.notes[0]
    hashes = [image.tobytes() for image in cohort.take(np.arange(len(cohort.shards)))]
    sides: dict[bytes, set[int]] = {}
    for image, side in zip(hashes, cohort.split, strict=True):
        sides.setdefault(image, set()).add(int(side))
    assert all(len(found) == 1 for found in sides.values())


@pytest.mark.slow
def test_kermany_reports_both_published_splits_and_undoes_the_squeezed_pixels(
    real: Path, tmp_path: Path
) -> None:
    reference = run_ingest(
        load_manifest(MANIFESTS / "kermany_cxr.yaml"), tmp_path / "c", IngestSettings(image_size=64)
    )
    cohort = Cohort(reference.path)
    assert SHARED in cohort.info.notes
    assert "published split kaggle: 0 patients stand in both train and test" in cohort.info.notes
    by_patient(cohort)
    # An archive of the same images at 64 pixels lies beside them; the manifest does not include it.
    assert cohort.reference.counts == {"scans": 5856, "patients": 3288, "rejected": 0, "not_read": 1}
    # kermany_64.npz was made from the same files, with the true shape and a central crop.
    rows = (real / "kermany_cxr" / "kermany_64_rows.csv").read_text().splitlines()[1:]
    at = {line.split(",")[-1]: (line.split(",")[0], int(line.split(",")[1])) for line in rows}
    listing = list_scans(load_manifest(MANIFESTS / "kermany_cxr.yaml"))
    with np.load(real / "kermany_cxr" / "kermany_64.npz") as archive:
        arrays = {part: archive[f"{part}_images"] for part in ("train", "val", "test")}
    chosen = list(range(0, 5856, 40))
    known = [listing.tasks[row].name for row in chosen]
    assert all(name in at for name in known)
    theirs = np.stack([arrays[at[name][0]][at[name][1]] for name in known]).reshape(len(known), -1)
    ours = cohort.take(chosen).reshape(len(known), -1)
    agreement = [
        np.corrcoef(a, b)[0, 1] for a, b in zip(ours.astype(float), theirs.astype(float), strict=True)
    ]
    assert np.median(agreement) > 0.99
    assert np.mean(np.array(agreement) > 0.95) > 0.95


def test_missing_data_is_told_with_the_path_or_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = load_manifest(MANIFESTS / "kermany_cxr.yaml")
    monkeypatch.delenv("PHOSPHOR_DATA", raising=False)
    with pytest.raises(ManifestError, match="PHOSPHOR_DATA is not set"):
        run_ingest(manifest, tmp_path / "c", IngestSettings())
    monkeypatch.setenv("PHOSPHOR_DATA", str(tmp_path / "nowhere"))
    with pytest.raises(DataError, match="no such"):
        run_ingest(manifest, tmp_path / "c", IngestSettings())
