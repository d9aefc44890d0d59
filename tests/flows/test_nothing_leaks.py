"""No identifying value of the source is in anything a whole run writes: files, logs, Prefect's database."""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import pandas as pd
import pydicom
import pytest

from pipeline.manifest import load_manifest
from pipeline.phantom import planted_values
from pipeline.residual import FindingKind, problems, scan_for_values
from pipeline.residual.values.collecting import collect_values
from pipeline.residual.verify_source import verify_against
from pipeline.sources.phantom import phantom_folder, phantom_settings
from tests.flows.conftest import PHANTOM, sets, spawn

PATIENTS = 60


@pytest.fixture(scope="module")
def source() -> Path:
    """Return the folder of scans that a micro run reads."""
    manifest = load_manifest(PHANTOM)
    return phantom_folder(phantom_settings(manifest.sources[0], PATIENTS))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the outputs, logs and Prefect home of one whole run in a process of its own."""
    folder = tmp_path_factory.mktemp("everything")
    home = {"PREFECT_HOME": str(folder / "prefect"), "XDG_STATE_HOME": str(folder / "state")}
    process = spawn("run", PHANTOM, "--recipe", "smoke", "--out", folder / "out", *sets(), env=home)
    out, err = process.communicate(timeout=600)
    assert process.returncode == 0, err
    (folder / "stdout.txt").write_text(out, encoding="utf-8")
    (folder / "stderr.txt").write_text(err, encoding="utf-8")
    return folder


def test_no_planted_value_is_in_anything_a_run_writes(everything: Path, source: Path) -> None:
    values = planted_values(source)
    assert len(values) > 500
    assert (everything / "out" / "release" / "metadata.parquet" / "part-0.parquet").is_file()
    assert (everything / "out" / ".prefect-server" / "prefect.db").is_file()
    assert not list((everything / "prefect").rglob("*.db"))
    assert problems(scan_for_values(everything, values)) == []


def test_no_value_collected_from_the_source_is_in_anything_a_run_writes(
    everything: Path, source: Path
) -> None:
    with collect_values(source) as values:
        report = verify_against(everything, values)
    assert report.clean, [leak.sentence() for leak in report.leaks] + list(report.not_searched)
    assert sum(report.searched.values()) > 2000


def test_the_same_scanner_finds_every_value_in_a_control_that_keeps_headers(
    source: Path, tmp_path: Path
) -> None:
    files = sorted(path for path in source.rglob("*") if path.is_file())
    names = [str(path.relative_to(source)) for path in files]
    headers = [_header(path) for path in files]
    pd.DataFrame({"name": names, "header": headers}).to_parquet(tmp_path / "kept.parquet", compression="zstd")
    values = planted_values(source)
    found = scan_for_values(tmp_path, values)
    hit = {finding.value_number for finding in found if finding.kind is FindingKind.FOUND}
    short = {finding.value_number for finding in found if finding.kind is FindingKind.TOO_SHORT}
    assert len(hit) > 500
    assert hit | short == set(range(len(values)))


def _header(path: Path) -> bytes:
    """Return a file's header as bytes: what a careless export would keep beside the pixels."""
    if path.suffix == ".gz":
        return gzip.decompress(path.read_bytes())[:352]
    if path.suffix in {".csv", ".json"}:
        return path.read_bytes()
    dataset = pydicom.dcmread(path)
    del dataset.PixelData
    kept = io.BytesIO()
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    dataset.save_as(kept)
    return kept.getvalue()
