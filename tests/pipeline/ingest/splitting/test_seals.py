"""A refused or killed ingest leaves nothing by which a guessed patient id could be tried without the key."""

from __future__ import annotations

import json
import tarfile
import zipfile
from pathlib import Path

import pytest

from pipeline.artifacts.cohort import Cohort
from pipeline.errors import DataError
from pipeline.ingest import run_ingest, stage
from pipeline.ingest.reading.parts import FOLDER, part_path, read_rows
from pipeline.ingest.reading.worker import draw
from pipeline.ingest.settings import IngestSettings
from pipeline.ingest.splitting.seals import DrawSeal
from pipeline.residual import problems, scan_for_values
from pipeline.sources.stores.tar import unpacked_path
from tests.pipeline.ingest.scans import manifest_of, write_images

SETTINGS = IngestSettings(image_size=16, workers=1, chunk_scans=8)
SPLIT = "001100003311002200000033000022000033000000003311"
"""Sides of the records as they were before draws were sealed."""


def recovered(folder: Path) -> list[str]:
    """Return the patients that somebody without the key finds by trying all likely ids."""
    texts = []
    for path in sorted(folder.rglob("*")):
        texts.append(path.name)
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                texts += [archive.read(name).decode("latin-1") for name in archive.namelist()]
        elif path.is_file():
            texts.append(path.read_bytes().decode("latin-1"))
    said = "\n".join(texts)
    likely = (f"pat{number:03d}" for number in range(1000))
    return [patient for patient in likely if draw(0, "drawn", patient) in said]


def test_a_refused_ingest_leaves_no_draw_to_try_ids_on(tmp_path: Path) -> None:
    for number, path in enumerate(sorted(write_images(tmp_path).rglob("*.png"))):
        if number % 3:
            path.write_bytes(b"broken")
    with pytest.raises(DataError, match="scans cannot be used"):
        run_ingest(manifest_of(tmp_path), tmp_path / "c", SETTINGS)
    rows = read_rows(tmp_path / "c" / FOLDER, 0)
    assert all(len(row.sealed_draw) == 12 for row in rows)
    assert recovered(tmp_path / "c") == []
    draws = [draw(0, "drawn", f"pat{number:03d}") for number in range(24)]
    assert problems(scan_for_values(tmp_path / "c", draws)) == []


def killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as broken, pytest.raises(KeyboardInterrupt):
        broken.setattr(stage, "gather", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        run_ingest(manifest_of(tmp_path), tmp_path / "c", SETTINGS)


def test_a_killed_ingest_goes_on_with_the_split_of_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path)
    killed(tmp_path, monkeypatch)
    assert recovered(tmp_path / "c") == []
    made = run_ingest(manifest_of(tmp_path), tmp_path / "c", SETTINGS)
    assert "".join(map(str, Cohort(made.path).split.tolist())) == SPLIT
    fresh = run_ingest(manifest_of(tmp_path), tmp_path / "d", SETTINGS)
    assert made.digest == fresh.digest
    assert recovered(tmp_path / "c") == []


def test_parts_with_open_draws_of_an_earlier_version_are_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_images(tmp_path)
    killed(tmp_path, monkeypatch)
    path = part_path(tmp_path / "c" / FOLDER, 0)
    with zipfile.ZipFile(path) as archive:
        rows, pixels = json.loads(archive.read("rows.json")), archive.read("pixels")
    for row in rows:
        row["draw"] = row.pop("sealed_draw")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("pixels", pixels)
        archive.writestr("rows.json", json.dumps(rows))
    made = run_ingest(manifest_of(tmp_path), tmp_path / "c", SETTINGS)
    assert "".join(map(str, Cohort(made.path).split.tolist())) == SPLIT


def test_a_seal_opens_with_its_key_alone_and_two_splits_do_not_cancel_it() -> None:
    seal, plain = DrawSeal(b"k" * 32, "d", 0), draw(0, "d", "p")
    assert seal(seal(plain, "p-1"), "p-1") == plain
    assert seal("", "p-1") == ""
    others = [DrawSeal(b"l" * 32, "d", 0), DrawSeal(b"k" * 32, "e", 0), DrawSeal(b"k" * 32, "d", 1)]
    assert len({seal(plain, "p-1"), seal(plain, "p-2"), *(one(plain, "p-1") for one in others)}) == 5
    again = DrawSeal(b"k" * 32, "d", 1)(draw(1, "d", "p"), "p-1")
    both = int(plain, 16) ^ int(draw(1, "d", "p"), 16)
    assert int(seal(plain, "p-1"), 16) ^ int(again, 16) != both


def test_the_name_of_an_unpacked_archive_tells_no_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "Smith_John.tar.gz"
    with tarfile.open(path, "w:gz"):
        pass
    names = set()
    for key in ("1", "2"):
        monkeypatch.setenv("PHOSPHOR_KEY", key * 64)
        names.add(unpacked_path(path).name)
    assert len(names) == 2
