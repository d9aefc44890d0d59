"""What lies in a source and is not read is counted and told by hashed names: links, endings, hidden files."""

from __future__ import annotations

import logging
import os
import re
import shutil
import tarfile
import zipfile
from pathlib import Path

import pandas as pd
import pytest

from pipeline.artifacts.cohort import Cohort
from pipeline.identity import Pseudonyms, load_key
from pipeline.ingest import run_ingest
from pipeline.ingest.settings import IngestSettings
from pipeline.manifest.file_endings import ending_of
from pipeline.sources.included import matcher
from pipeline.sources.listing import list_scans
from pipeline.sources.stores.base import CLOSED, FOLDER_LINK, HIDDEN, INNER_LINK, LINK, NO_FILE
from pipeline.sources.unread import UNMATCHED, unread_notes
from tests.flows.conftest import Call, call
from tests.pipeline.ingest.scans import FOLDER_MANIFEST, manifest_of, write_images

__all__ = ["call"]

ANY_DEPTH = FOLDER_MANIFEST.replace("*/*.png", "**/*.png")
SETTINGS = IngestSettings(image_size=16, workers=1, near_duplicates="off")


def away(folder: Path) -> Path:
    """Write images of two classes, and move those of one behind a symbolic link."""
    scans = write_images(folder)
    shutil.move(scans / "bar", folder / "elsewhere")
    (scans / "bar").symlink_to(folder / "elsewhere", target_is_directory=True)
    return scans


def test_a_class_behind_a_link_is_told_by_ingest_its_page_and_its_counts(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    away(tmp_path)
    manifest = manifest_of(tmp_path, ANY_DEPTH)
    assert list_scans(manifest).unread == {"bar": FOLDER_LINK}
    kept = tmp_path / "private" / "map.parquet"
    kept.parent.mkdir()
    caplog.set_level(logging.WARNING)
    for again in range(2):
        caplog.clear()
        made = run_ingest(
            manifest, tmp_path / "out" / "cohort", SETTINGS.model_copy(update={"private_map": kept})
        )
        assert f"not read: 1 entry of the source ({FOLDER_LINK}; no ending 1)" in caplog.text, again
    assert made.counts["not_read"] == 1
    page = (tmp_path / "out" / "cohort" / "qc.html").read_text(encoding="utf-8")
    name = Pseudonyms(load_key()).scan("bar")
    assert FOLDER_LINK in page
    assert name in page
    known = pd.read_parquet(kept).set_index("sample_id")["name"]
    assert known[name] == "bar"
    assert Cohort(tmp_path / "out" / "cohort").info.classes == ("disc",)


def test_what_is_not_read_is_no_part_of_a_cohort_s_digest(tmp_path: Path) -> None:
    scans = write_images(tmp_path)
    manifest = manifest_of(tmp_path)
    first = run_ingest(manifest, tmp_path / "first", SETTINGS)
    (scans / "disc" / "Smith.txt").write_text("x")
    second = run_ingest(manifest, tmp_path / "second", SETTINGS)
    assert (first.digest, first.inputs_digest) == (second.digest, second.inputs_digest)
    assert "not_read" not in first.counts
    assert second.counts["not_read"] == 1
    page = (tmp_path / "second" / "qc.html").read_text(encoding="utf-8")
    assert f"{UNMATCHED}; .txt 1" in page
    assert "Smith.txt" not in page


def test_validate_tells_links_and_endings_and_no_name(tmp_path: Path, call: Call) -> None:
    scans = away(tmp_path)
    for number in range(3):
        (scans / "disc" / f"Smith_{number}.JP2").write_bytes(b"x")
    (scans / "disc" / "scan.Smith").write_bytes(b"x")
    manifest_of(tmp_path, ANY_DEPTH)
    load_key()
    done = call("validate", tmp_path / "manifest.yaml")
    assert done.code == 0
    assert done.last_line["not_read"] == {UNMATCHED: 4, FOLDER_LINK: 1}
    assert (
        f"not read: 4 entries of the source ({UNMATCHED}; .JP2 3, another ending 1), such as s-" in done.err
    )
    assert "replace the link by the folder" in done.err
    assert "Smith" not in done.err


def test_validate_makes_no_key_to_tell_names(
    tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PHOSPHOR_KEY", raising=False)
    monkeypatch.setattr("pipeline.identity.key_path", lambda: tmp_path / "nowhere.key")
    away(tmp_path)
    manifest_of(tmp_path, ANY_DEPTH)
    done = call("validate", tmp_path / "manifest.yaml")
    assert f"({FOLDER_LINK}; no ending 1); replace" in done.err
    assert not (tmp_path / "nowhere.key").exists()


def test_an_ending_matches_in_any_case_and_nothing_else_does(tmp_path: Path) -> None:
    scans = write_images(tmp_path)
    for path in sorted((scans / "disc").iterdir())[::2]:
        path.rename(path.with_suffix(".PNG"))
    listing = list_scans(manifest_of(tmp_path))
    assert (len(listing.tasks), listing.unread) == (48, {})
    wanted = matcher(["**/*.nii.gz", "CXR/*.jpeg", "x_*.d", "NORMAL/scan*"])
    taken = ["a/b.NII.gz", "b.nii.GZ", "CXR/1.JPEG", "x_1.D", "NORMAL/scan7"]
    assert [wanted(name) for name in taken] == [True] * 5
    assert not any(
        wanted(name) for name in ("cxr/1.jpeg", "X_1.d", "normal/scan7", "a.nii.gz.bak", "CXR/1.jpg")
    )


def test_the_patterns_of_every_shipped_manifest_match_any_case() -> None:
    for path in sorted(Path("data_manifests").glob("*.yaml")):
        for found in re.findall(r"include: \[(.*)\]", path.read_text(encoding="utf-8")):
            for pattern in re.findall(r'"([^"]+)"', found):
                name = pattern.replace("**/", "a/b/").replace("*", "c")
                stem, _, ending = name.rpartition(".")
                for spelled in (ending, ending.upper(), ending.title()):
                    assert matcher([pattern])(f"{stem}.{spelled}"), (path.name, pattern)


def test_sources_that_share_a_folder_tell_only_of_what_none_reads(tmp_path: Path) -> None:
    scans = write_images(tmp_path)
    (scans / "patients.csv").write_text("file,label\n")
    (scans / "disc" / "left.raw").write_text("x")
    text = FOLDER_MANIFEST.replace('["*/*.png"]', '["disc/*.png"]')
    text += text[text.index("  - kind") :].replace("disc/", "bar/")
    text += (
        text[text.index("  - kind") : text.rindex("  - kind")]
        .replace("scans", "scans/bar")
        .replace("disc/", "")
        .replace("folder: 0", "value: bar")
    )
    listing = list_scans(manifest_of(tmp_path, text))
    assert listing.unread == {"disc/left.raw": UNMATCHED, "patients.csv": UNMATCHED}


def test_every_store_tells_what_it_passes_over(tmp_path: Path) -> None:
    scans = write_images(tmp_path, patients=4, images=1)
    (scans / ".cache").mkdir()
    (scans / ".cache" / "a.png").write_bytes(b"x")
    (scans / "disc" / "._a.png").write_bytes(b"x")
    (scans / "twin").symlink_to(scans / "bar", target_is_directory=True)
    os.mkfifo(scans / "pipe.png")
    found = list_scans(manifest_of(tmp_path, ANY_DEPTH)).unread
    assert found == {".cache/a.png": HIDDEN, "disc/._a.png": HIDDEN, "twin": INNER_LINK, "pipe.png": NO_FILE}
    with tarfile.open(tmp_path / "scans.tar", "w") as tar:
        tar.add(scans, ".")
    link = zipfile.ZipInfo("twin")
    link.create_system, link.external_attr = 3, 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "scans.zip", "w") as packed:
        packed.writestr(link, "bar")
        for path in sorted(scans.rglob("*.png")):
            if path.is_file() and path.parent != scans / "twin":
                packed.write(path, path.relative_to(scans).as_posix())
    for archive in ("scans.tar", "scans.zip"):
        text = ANY_DEPTH.replace("path: scans", f"path: {archive}")
        found = list_scans(manifest_of(tmp_path, text)).unread
        assert found == {".cache/a.png": HIDDEN, "disc/._a.png": HIDDEN, "twin": LINK}, archive


def test_a_hidden_folder_of_somebody_else_is_told_and_stops_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scans = write_images(tmp_path, patients=4, images=1)
    (scans / ".trash").mkdir()
    true = os.scandir

    def scandir(path: str) -> object:
        if path.endswith(".trash"):
            raise PermissionError(13, "Permission denied")
        return true(path)

    monkeypatch.setattr(os, "scandir", scandir)
    listing = list_scans(manifest_of(tmp_path))
    assert (len(listing.tasks), listing.unread) == (4, {".trash": CLOSED})


def test_an_ending_is_shown_only_where_it_can_be_nobody_s_name() -> None:
    told = [ending_of(name) for name in ("a/b.PNG", "a.Nii.gz", "1.2.840.7", "x.Smith", "scan", "a.b/c")]
    assert told == [".PNG", ".Nii.gz", "another ending", "another ending", "no ending", "no ending"]
    assert unread_notes({}, None) == []
