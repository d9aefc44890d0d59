"""A kind of source is one record: with it alone, manifests, listing, ingest, validate and verify know it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from flows.validation import reachable_data
from pipeline.artifacts.cohort import Cohort
from pipeline.errors import DataError, ManifestError, ScanRefusedError
from pipeline.ingest import run_ingest
from pipeline.ingest.plan import plan_ingest
from pipeline.ingest.settings import IngestSettings
from pipeline.manifest import Manifest, load_manifest, manifest_schema
from pipeline.manifest.kinds.scan_rules import UntaggedRule
from pipeline.manifest.kinds.table import KINDS, SourceKind, named
from pipeline.residual.search.texts import name_pieces
from pipeline.residual.values.collecting import collect_values
from pipeline.residual.values.source_values import FileValues, Piece
from pipeline.residual.verify_source import verify_against
from pipeline.sources.base import Asked, Scan, ScanTask
from pipeline.sources.folders import Listing, list_folder
from pipeline.sources.listing import list_scans
from pipeline.sources.reading import read_patient, read_scan

SIDE = 12
TEXT = r"""
name: plain
sources:
  - kind: pgm
    path: scans
    include: ["**/*.pgm"]
    invert: true
    label: {folder: 0}
    patient: {pattern: "(p\\d+)-"}
"""


class PgmSource(UntaggedRule):
    """A folder of plain PGM files, whose comments may hold a name."""

    kind: Literal["pgm"]
    invert: bool = False


@dataclass(frozen=True)
class PgmOptions:
    invert: bool = False


def list_pgm(manifest: Manifest, source: PgmSource, number: int, asked: Asked) -> Listing:
    return list_folder(manifest, source, number, PgmOptions(source.invert))


def read_pgm(task: ScanTask, data: bytes) -> Iterator[Scan]:
    if not data.startswith(b"P2\n"):
        raise ScanRefusedError("not a plain PGM file")
    numbers = [line for line in data.decode().splitlines()[1:] if not line.startswith("#")]
    width, height, top, *values = map(int, " ".join(numbers).split())
    pixels = np.array(values, dtype=np.uint8).reshape(height, width)
    if task.rule.read_with(PgmOptions).invert:
        pixels = top - pixels
    yield Scan(pixels, (0.0, float(top)), hashlib.sha256(data).hexdigest(), "pgm")


def pgm_pieces(data: bytes) -> Iterator[Piece]:
    for line in data.decode().splitlines():
        if line.startswith("# "):
            yield from name_pieces("PGM comment", line.removeprefix("# "))


PGM = FileValues(pgm_pieces, lambda data, name: data.startswith(b"P2\n"))


@pytest.fixture
def added() -> Iterator[None]:
    """Put the kind into the table, as a line of it would, and take it out again."""
    KINDS["pgm"] = SourceKind(
        PgmSource, lists=f"{__name__}:list_pgm", reads=f"{__name__}:read_pgm", values=f"{__name__}:PGM"
    )
    Manifest.model_rebuild(force=True)
    yield
    del KINDS["pgm"]
    Manifest.model_rebuild(force=True)


@pytest.fixture
def manifest_path(tmp_path: Path) -> Path:
    """Write 40 files of 20 patients and two classes, and their manifest."""
    rng = np.random.default_rng(0)
    for number in range(40):
        label, patient = ("low", "high")[number // 2 % 2], number // 2
        pixels = rng.integers(0, 200, (SIDE, SIDE), dtype=np.uint8)
        body = "\n".join(" ".join(map(str, row)) for row in pixels.tolist())
        path = tmp_path / "scans" / label / f"p{patient}-{number}.pgm"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"P2\n# Quendolin^Wilburga{patient:02d}\n{SIDE} {SIDE}\n200\n{body}\n")
    (tmp_path / "m.yaml").write_text(TEXT)
    return tmp_path / "m.yaml"


@pytest.mark.usefixtures("added")
def test_a_manifest_may_name_the_kind_with_keys_of_its_own(manifest_path: Path) -> None:
    manifest = load_manifest(manifest_path)
    assert isinstance(manifest.sources[0], PgmSource) and manifest.sources[0].invert
    schema = manifest_schema()
    assert schema["properties"]["sources"]["items"]["discriminator"]["mapping"]["pgm"] == "#/$defs/PgmSource"
    manifest_path.write_text(TEXT.replace("invert", "invrt"))
    with pytest.raises(ManifestError, match=r"sources\.0\.invrt: unknown key.*'invert'"):
        load_manifest(manifest_path)


@pytest.mark.usefixtures("added")
def test_its_scans_are_listed_validated_read_and_ingested(manifest_path: Path, tmp_path: Path) -> None:
    manifest = load_manifest(manifest_path)
    listing = list_scans(manifest)
    assert len(listing.tasks) == 40 and {task.label for task in listing.tasks} == {"low", "high"}
    first = listing.tasks[0]
    stored = (tmp_path / "scans" / first.name).read_text().splitlines()[4].split()[0]
    assert read_scan(first).pixels[0, 0] == 200 - int(stored)
    assert read_patient(first) is None
    found = reachable_data(manifest)
    assert found.lines[0] == "sources.0: pgm" and found.counts == {"high": 20, "low": 20}
    settings = IngestSettings(image_size=8, workers=1)
    cohort = Cohort(run_ingest(manifest, tmp_path / "cohort", settings).path)
    assert cohort.info.num_scans == 40 and cohort.info.num_patients == 20
    assert set(cohort.records()["source_format"]) == {"pgm"}


@pytest.mark.usefixtures("added")
def test_the_values_in_its_files_are_collected_and_found_in_an_output(
    manifest_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("seen by Wilburga07 Quendolin")
    for source in (load_manifest(manifest_path), tmp_path / "scans"):
        with collect_values(source) as values:
            assert values.facts.not_read == {}
            report = verify_against(tmp_path / "out", values)
        assert {leak.attribute for leak in report.leaks} == {"PGM comment"}


@pytest.mark.usefixtures("added")
def test_scans_that_are_not_here_yet_are_told_of_and_not_listed(
    manifest_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PgmSource, "not_here", lambda self, present: "on a tape in the cellar")
    manifest = load_manifest(manifest_path)
    found = reachable_data(manifest)
    assert found.lines == ["sources.0: on a tape in the cellar"] and not found.counts
    with pytest.raises(DataError, match="not on this machine yet"):
        plan_ingest(manifest, tmp_path / "cohort", IngestSettings(image_size=8)).foresee()


def test_without_its_record_nothing_knows_the_kind(manifest_path: Path, tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="kind is missing or unknown") as caught:
        load_manifest(manifest_path)
    assert "phantom" in str(caught.value) and "pgm" not in str(caught.value)
    assert "PgmSource" not in manifest_schema()["$defs"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_record_names_what_there_is(kind: str) -> None:
    record = KINDS[kind]
    assert record.rule.model_fields["kind"].annotation == Literal[kind]  # type: ignore[valid-type]
    assert all(callable(named(target)) for target in (record.lists, record.reads, record.patient) if target)
    assert not record.values or isinstance(named(record.values), FileValues)


def test_a_kind_whose_files_nothing_searches_is_no_kind() -> None:
    with pytest.raises(ValueError, match="set `values` to the collector"):
        SourceKind(PgmSource, lists=f"{__name__}:list_pgm", reads=f"{__name__}:read_pgm")
