"""A folder that was there before keeps its mode, whatever becomes of a run; what is made in it is private."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from pipeline.errors import StorageError
from pipeline.ingest import run_ingest
from pipeline.ingest.settings import IngestSettings
from pipeline.storage import make_private_directory
from tests.flows.conftest import Call, sets
from tests.pipeline.ingest.scans import manifest_of, write_images


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_only_a_folder_that_is_made_here_gets_a_mode(tmp_path: Path) -> None:
    tmp_path.chmod(0o755)
    assert mode(make_private_directory(tmp_path / "new")) == 0o700
    (tmp_path / "shared").mkdir()
    (tmp_path / "shared").chmod(0o2775)
    assert mode(make_private_directory(tmp_path / "shared")) == 0o2775
    assert mode(make_private_directory(tmp_path / "shared" / "below" / "it")) == 0o700
    assert mode(tmp_path / "shared") == 0o2775
    (tmp_path / "file").write_text("x")
    with pytest.raises((StorageError, OSError)):
        make_private_directory(tmp_path / "file")


def test_a_stage_leaves_the_mode_of_an_empty_folder_and_keeps_its_files_private(tmp_path: Path) -> None:
    write_images(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    out.chmod(0o755)
    run_ingest(manifest_of(tmp_path), out, IngestSettings(image_size=16, workers=1))
    assert mode(out) == 0o755
    assert {mode(path) for path in out.rglob("*") if path.is_file()} == {0o600}


def test_a_run_that_fails_leaves_a_shared_folder_as_it_was(call: Call, tmp_path: Path) -> None:
    for path in write_images(tmp_path, patients=6).rglob("*.png"):
        path.write_bytes(b"broken")
    manifest_of(tmp_path)
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o775)
    (shared / "theirs.txt").write_text("x")
    (shared / "theirs.txt").chmod(0o664)
    done = call(
        "run", tmp_path / "manifest.yaml", "--recipe", "smoke", "--out", shared,
        *sets(("ingest.image_size=16", "ingest.workers=1")),
    )  # fmt: skip
    assert done.code == 3, done.err
    assert (mode(shared), mode(shared / "theirs.txt")) == (0o775, 0o664)
    made = [path for path in shared.iterdir() if path.name != "theirs.txt"]
    assert made
    assert {mode(path) for path in made} <= {0o700, 0o600}
