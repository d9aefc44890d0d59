"""`phosphor verify OUTPUT --against SOURCE`: what was not read whole, source or output, is not verified."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from PIL import Image

from pipeline.identity import Pseudonyms, load_key
from tests.flows.conftest import Call
from tests.pipeline.ingest.scans import FOLDER_MANIFEST, manifest_of, write_images
from tests.pipeline.residual.sources import dicom_bytes

LINKED = "a link to a folder elsewhere, which is not followed"


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Return an output whose log holds a name that only a linked folder of the source holds."""
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "log.txt").write_text("read Quendolinski_4711.png at noon")
    return folder


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return images of two classes; a third class lies behind a link."""
    scans = write_images(tmp_path, patients=4, images=1)
    (tmp_path / "elsewhere").mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "elsewhere" / "Quendolinski_4711.png")
    (scans / "mass").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    return scans


@pytest.mark.parametrize("include", ["", "*/*.png", "**/*"])
def test_a_source_with_a_folder_behind_a_link_is_not_verified(
    call: Call, source: Path, output: Path, include: str
) -> None:
    manifest_of(source.parent, FOLDER_MANIFEST.replace("*/*.png", include or "x"))
    against = source.parent / "manifest.yaml" if include else source
    done = call("verify", output, "--against", against)
    body = done.last_line["against"]
    assert (done.code, body["clean"], body["source_whole"]) == (3, False, False)
    assert body["source_files_not_read"] == {LINKED: 1}
    assert "NOT VERIFIED: the source was not read completely" in done.err
    assert f"not read: 1 entry of the source ({LINKED}; no ending 1), such as s-" in done.err
    assert Pseudonyms(load_key()).scan("mass") in done.err
    assert "replace the link by the folder" in done.err
    # As told, the folder itself is put there: then the name is found.
    (source / "mass").unlink()
    (source.parent / "elsewhere").rename(source / "mass")
    again = call("verify", output, "--against", against)
    assert (again.code, again.last_line["against"]["source_whole"]) == (3, True)
    assert again.last_line["against"]["found"]["by_attribute"]["file name"] > 0
    (output / "log.txt").write_text("nothing")
    assert call("verify", output, "--against", against).code == 0


def test_names_that_no_pattern_includes_are_searched(call: Call, source: Path, output: Path) -> None:
    (source / "mass").unlink()
    (source / "disc" / "Quendolinski_4711.raw").write_bytes(b"x")
    manifest_of(source.parent)
    done = call("verify", output, "--against", source.parent / "manifest.yaml")
    assert done.code == 3
    assert done.last_line["against"]["found"]["by_attribute"]["file name"] > 0


def test_what_cannot_be_read_of_a_folder_is_not_verified_and_what_holds_nothing_is(
    call: Call, source: Path, output: Path
) -> None:
    (output / "log.txt").write_text("nothing")
    (source / "mass").unlink()
    (source / "twin").symlink_to(source / "disc", target_is_directory=True)
    (source / "empty.txt").write_bytes(b"")
    (source / ".DS_Store").write_bytes(b"\0\1")
    (source / ".hidden.dcm").write_bytes(dicom_bytes())
    (source / "ids.json").write_text('{"patient_id": ["Quendolin-99"], "other": "said"}')
    assert call("verify", output, "--against", source).code == 0
    for value in ("MRN-0048817", "Quendolin-99"):
        (output / "log.txt").write_text(f"of {value} here")
        assert call("verify", output, "--against", source).code == 3
    (output / "log.txt").write_text("nothing")
    for name, data in (("letter.docx", b"PK\3\4\0"), ("bad.dcm", b"\0" * 128 + b"DICM" + b"\xff" * 40)):
        (source / name).write_bytes(data)
        done = call("verify", output, "--against", source)
        assert done.code == 3
        assert "NOT VERIFIED" in done.err
        assert name.partition(".")[0] not in done.err
        (source / name).unlink()


def test_an_output_with_a_link_out_or_a_closed_folder_is_not_searched_whole(
    call: Call, source: Path, output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (output / "log.txt").write_text("nothing")
    (source / "mass").unlink()
    (output / "more").symlink_to(source, target_is_directory=True)
    done = call("verify", output, "--against", source)
    assert done.code == 3
    assert "not searched: more (a link out of the output, which is not followed)" in done.err
    (output / "more").unlink()
    (output / "closed").mkdir()
    true = os.scandir

    def scandir(path: str = ".") -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return true(path)

    monkeypatch.setattr(os, "scandir", scandir)
    done = call("verify", output, "--against", source)
    assert done.code == 3
    assert "not searched: closed (unreadable (Permission denied))" in done.err
