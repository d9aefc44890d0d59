"""Ingest from a DICOM server that is killed midway: it waits or ends, goes on, and the cohort is the same."""

from __future__ import annotations

import csv
import logging
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest

from pipeline.artifacts.cohort import Cohort
from pipeline.ingest import run_ingest
from pipeline.ingest.reading import pool, processes
from pipeline.ingest.reading.processes import STALLED
from pipeline.ingest.settings import IngestSettings
from pipeline.manifest import load_manifest
from pipeline.phantom import PhantomSettings, write_phantom_cohort
from pipeline.residual import problems, scan_for_values
from pipeline.sources.listing import list_scans
from tests.orthanc import PASSWORD, Orthanc, environment, needs_orthanc

ROOT = Path(__file__).resolve().parents[3]
SETTINGS = PhantomSettings(num_patients=48, image_size=96, nifti_share=0.0, images_per_patient=(1, 3), seed=5)
NUM_SCANS = 100

RULES = """
    label: {column: label}
    patient: {tag: PatientID}
    attributes: {sex: sex, age: age}
"""
FOLDER = (
    "name: hospital\nsources:\n  - kind: dicom\n    path: cohort/dicom\n    table: {path: by_file.csv}"
    + RULES
)
WEB = (
    """
name: hospital
sources:
  - kind: dicomweb
    url: ${PACS_URL}
    user: ${PACS_USER}
    password: ${PACS_PASSWORD}
    retry_seconds: SECONDS
    table: {path: by_instance.csv, match: name}"""
    + RULES
)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with 100 phantom files, and manifests and tables for both ways to read them."""
    folder = tmp_path_factory.mktemp("hospital")
    index = write_phantom_cohort(folder / "cohort", SETTINGS)
    with index.labels_csv.open(newline="") as stream:
        rows = list(csv.DictReader(stream))[:NUM_SCANS]
    assert len(rows) == NUM_SCANS
    kept = {row["file"] for row in rows}
    for path in (folder / "cohort" / "dicom").rglob("*.dcm"):
        if str(path.relative_to(folder / "cohort")) not in kept:
            path.unlink()
    names = [instance_name(folder / "cohort" / row["file"]).rsplit("/", 1)[-1] for row in rows]
    write_table(folder / "by_file.csv", rows, [row["file"].removeprefix("dicom/") for row in rows])
    write_table(folder / "by_instance.csv", rows, names)
    (folder / "folder.yaml").write_text(FOLDER)
    (folder / "patient.yaml").write_text(WEB.replace("SECONDS", "120"))
    (folder / "hasty.yaml").write_text(WEB.replace("SECONDS", "0.5"))
    return folder


@pytest.fixture(scope="module")
def expected(place: Path) -> dict[str, tuple[object, ...]]:
    settings = IngestSettings(image_size=32, workers=1)
    return content(Path(run_ingest(load_manifest(place / "folder.yaml"), place / "by_folder", settings).path))


@pytest.fixture(scope="module")
def stored(place: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    """Return an Orthanc that holds the files, not running."""
    server = Orthanc(tmp_path_factory.mktemp("orthanc")).start()
    server.store(sorted((place / "cohort" / "dicom").rglob("*.dcm")))
    server.kill()
    yield server
    server.kill()


@pytest.fixture
def orthanc(stored: Orthanc) -> Iterator[Orthanc]:
    stored.start()
    yield stored
    stored.kill()


def instance_name(path: Path) -> str:
    header = pydicom.dcmread(path, stop_before_pixels=True)
    return f"{header.StudyInstanceUID}/{header.SeriesInstanceUID}/{header.SOPInstanceUID}"


def write_table(path: Path, rows: list[dict[str, str]], names: list[str]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["file", "label", "sex", "age"])
        writer.writerows(
            [name, row["label"], row["sex"], row["age"]] for name, row in zip(names, rows, strict=True)
        )


def content(folder: Path) -> dict[str, tuple[object, ...]]:
    """Return source digest -> all that must not depend on the way by which a scan came."""
    cohort = Cohort(folder)
    records = cohort.records()
    images = cohort.images(np.arange(len(records)))
    columns = [
        "patient_id",
        "label",
        "split",
        "audit",
        "sex",
        "age_band",
        "view",
        "source_format",
        "spacing_mm",
    ]
    return {
        str(digest): (*(str(cell) for cell in cells), image.tobytes())
        for digest, cells, image in zip(
            records["source_sha256"], records[columns].itertuples(index=False), images, strict=True
        )
    }


class Ingest:
    """An ingest in a process of its own."""

    def __init__(
        self, place: Path, manifest: str, out: Path, server: Orthanc, password: str = PASSWORD
    ) -> None:
        command = [sys.executable, "-m", "flows.cli.app", "ingest", str(place / manifest), "--out", str(out)]
        for setting in ("image_size=32", "chunk_scans=8", "workers=1"):
            command += ["--set", f"ingest.{setting}"]
        self.out, self.log = out, out.with_suffix(".log")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment(server, password), stdout=log, stderr=log
            )

    def finished_parts(self) -> int:
        return len(list(self.out.rglob("part-*.zip")))

    def until_midway(self) -> None:
        self._wait(lambda: self.finished_parts() >= 2)

    def until_told(self, wanted: str) -> None:
        self._wait(lambda: wanted in self.text())

    def _wait(self, happened: Callable[[], bool]) -> None:
        until = time.monotonic() + 60
        while not happened():
            assert self.process.poll() is None and time.monotonic() < until, self.text()
            time.sleep(0.002)

    def text(self) -> str:
        return self.log.read_text(encoding="utf-8")

    def end(self) -> int:
        return self.process.wait(timeout=120)


@needs_orthanc
def test_a_server_killed_midway_is_waited_for_and_the_cohort_is_that_of_the_folder(
    orthanc: Orthanc, place: Path, expected: dict[str, tuple[object, ...]], tmp_path: Path
) -> None:
    ingest = Ingest(place, "patient.yaml", tmp_path / "cohort", orthanc)
    ingest.until_midway()
    orthanc.kill()
    ingest.until_told("is unavailable")
    assert 2 <= ingest.finished_parts() < NUM_SCANS // 8
    orthanc.start()
    assert ingest.end() == 0, ingest.text()
    assert "answers again" in ingest.text()
    assert len(expected) == NUM_SCANS
    assert content(tmp_path / "cohort") == expected
    # Neither the secret nor a UID may stand in any output or log.
    names = [instance_name(path) for path in (place / "cohort" / "dicom").rglob("*.dcm")]
    uids = sorted({uid for name in names for uid in name.split("/")})
    assert len(uids) > NUM_SCANS
    assert problems(scan_for_values(tmp_path, [PASSWORD, *uids])) == []


@needs_orthanc
def test_a_server_away_for_too_long_ends_ingest_and_the_same_command_goes_on(
    orthanc: Orthanc, place: Path, expected: dict[str, tuple[object, ...]], tmp_path: Path
) -> None:
    out = tmp_path / "cohort"
    first = Ingest(place, "hasty.yaml", out, orthanc)
    first.until_midway()
    orthanc.kill()
    assert first.end() == 3, first.text()
    assert "does not answer" in first.text() and "finished scans are kept" in first.text()
    assert "Traceback" not in first.text()
    finished = first.finished_parts()
    assert finished >= 2 and not (out / "cohort.json").exists()
    orthanc.start()
    # More patience changes how the server is reached, not the cohort: what was finished still counts.
    again = Ingest(place, "patient.yaml", out, orthanc)
    assert again.end() == 0, again.text()
    assert "ingest resumes" in again.text()
    assert content(out) == expected


@needs_orthanc
def test_waiting_for_the_server_never_counts_as_a_stall_of_the_scan(
    orthanc: Orthanc,
    place: Path,
    expected: dict[str, tuple[object, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    for name, value in environment(orthanc).items():
        monkeypatch.setenv(name, value)
    for name in ("POOL_PAYS_SECONDS", "PROBE_SECONDS"):
        monkeypatch.setattr(pool, name, 0.0)
    monkeypatch.setattr(pool, "WATCH_SECONDS", 0.1)
    settings = IngestSettings(image_size=32, chunk_scans=8, workers=2, scan_seconds=1.0)
    out = tmp_path / "cohort"
    with ThreadPoolExecutor(1) as thread, caplog.at_level(logging.WARNING, logger="pipeline"):
        running = thread.submit(run_ingest, load_manifest(place / "patient.yaml"), out, settings)
        while len(list(out.rglob("part-*.zip"))) < 2:
            assert not running.done(), running.result()
            time.sleep(0.002)
        orthanc.kill()
        time.sleep(3 * settings.scan_seconds)
        orthanc.start()
        running.result(timeout=60)
    assert STALLED not in caplog.text
    assert content(out) == expected


@needs_orthanc
def test_a_suspected_scan_is_not_refused_because_the_server_is_away(
    orthanc: Orthanc, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment(orthanc).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(processes, "_START_SECONDS", 0.5)
    task = list_scans(load_manifest(place / "patient.yaml")).tasks[0]
    orthanc.kill()
    with ThreadPoolExecutor(1) as thread:
        verdict = thread.submit(processes.examine, task, 0.5)
        time.sleep(4)
        assert not verdict.done()
        orthanc.start()
        assert verdict.result(timeout=60) == ""


@needs_orthanc
def test_a_wrong_password_ends_ingest_without_showing_it(
    orthanc: Orthanc, place: Path, tmp_path: Path
) -> None:
    wrong = "wrong-Secret-2846"
    ingest = Ingest(place, "patient.yaml", tmp_path / "cohort", orthanc, password=wrong)
    assert ingest.end() == 3
    assert "refuses the credentials" in ingest.text()
    assert problems(scan_for_values(tmp_path, [wrong])) == []
