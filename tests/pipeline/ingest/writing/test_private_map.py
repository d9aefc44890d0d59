"""The private map resolves every id of a cohort: of files, of each frame of a file, of refused scans."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pipeline.ingest import run_ingest
from pipeline.ingest.settings import IngestSettings
from tests.pipeline.ingest.scans import manifest_of
from tests.pipeline.sources.dicom.dicoms import header, written

FRAMES = """
name: frames
sources:
  - kind: dicom
    path: scans
    frames: each
    label: {folder: 0}
    patient: {tag: PatientID}
"""
NUM_FRAMES = (3, 1, 12)


def write_frames(scans: Path) -> dict[str, str]:
    """Write DICOM files of several frames and of one; return `name#frame` -> patient of all good frames."""
    rng = np.random.default_rng(5)
    expected = {}
    for number in range(24):
        name, patient = f"{('disc', 'bar')[number % 2]}/Smith{number:02d}.dcm", f"MRN-{number:02d}"
        count = NUM_FRAMES[number % 3]
        pixels = rng.integers(0, 4096, (count, 20, 20), dtype=np.uint16)
        if number == 2:
            pixels[4] = 7
        (scans / name).parent.mkdir(parents=True, exist_ok=True)
        (scans / name).write_bytes(written(header(pixels, PatientID=patient)))
        expected |= {f"{name}#{frame}": patient for frame in range(1, count + 1)}
    # Constant, so refused; the frames behind it are not lost with it.
    del expected["disc/Smith02.dcm#5"]
    (scans / "disc" / "broken.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    return expected


@pytest.mark.parametrize("again", [False, True])
def test_every_id_of_a_cohort_of_frames_is_resolved(tmp_path: Path, *, again: bool) -> None:
    expected = write_frames(tmp_path / "scans")
    place = tmp_path / "safe" / "map.parquet"
    place.parent.mkdir()
    settings = IngestSettings(image_size=16, workers=1, near_duplicates="off")
    manifest = manifest_of(tmp_path, FRAMES)
    if again:
        # The parts of a finished cohort are gone: the map of a second run rests on the cohort itself.
        run_ingest(manifest, tmp_path / "c", settings)
    run_ingest(manifest, tmp_path / "c", settings.model_copy(update={"private_map": place}))
    found = pd.read_parquet(place).set_index("sample_id")
    assert found.index.is_unique
    records = pd.read_parquet(tmp_path / "c" / "records.parquet").set_index("sample_id")
    rejected = pd.read_parquet(tmp_path / "c" / "rejected.parquet").set_index("sample_id")
    assert len(records) == len(expected)
    assert set(found.index) == set(records.index) | set(rejected.index)
    told = found.loc[records.index]
    assert dict(zip(told["name"], told["patient"], strict=True)) == expected
    assert (told["patient_id"] == records["patient_id"]).all()
    assert sorted(found.loc[rejected.index, "name"]) == ["disc/Smith02.dcm#5", "disc/broken.dcm"]
