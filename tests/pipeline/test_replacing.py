"""What --force replaces is kept until the new output is whole; what cannot be replaced is never emptied."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.errors import KEPT, OutputExistsError
from pipeline.locking import exclusive_lock
from pipeline.records import CohortRef
from pipeline.replacing import may_be_replaced, require_replaceable
from pipeline.stage import aside_path, open_stage
from tests.pipeline.test_stage import Chosen, make


def content(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder but for lock files, which mean nothing."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@contextlib.contextmanager
def mounted(folder: Path, kind: str) -> Iterator[Path]:
    """Mount a file system of its own, or another folder, at `folder`; skip where nothing may be mounted."""
    folder.mkdir()
    behind = folder.with_name("behind")
    behind.mkdir()
    options = {"tmpfs": ["-t", "tmpfs", "none"], "bind": ["--bind", str(behind)]}[kind]
    command = [shutil.which("mount") or "mount", *options, str(folder)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting needs root: the same refusal is held by a test without a mount")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def refuse_to_move(monkeypatch: pytest.MonkeyPatch, folder: Path, number: int) -> None:
    """Let the system refuse to move `folder` or anything into its place, as for a mount point."""
    real_rename, real_replace = os.rename, os.replace

    def guarded(real: object, source: object, target: object) -> None:
        if folder in (Path(str(source)), Path(str(target))):
            raise OSError(number, os.strerror(number), str(source))
        real(source, target)  # type: ignore[operator]

    monkeypatch.setattr(os, "rename", lambda source, target: guarded(real_rename, source, target))
    monkeypatch.setattr(os, "replace", lambda source, target: guarded(real_replace, source, target))


def test_what_is_replaced_waits_until_the_new_output_is_finished(tmp_path: Path) -> None:
    out = tmp_path / "out"
    make(out)
    before = content(out)
    with open_stage(CohortRef, out, inputs={"source": "b"}, settings=Chosen(), force=True) as stage:
        assert content(aside_path(out)) == before
        (stage.path / "content.txt").write_text("new")
        stage.finish(["content.txt"], {})
    assert (out / "content.txt").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_replacement_that_fails_loses_nothing_and_the_earlier_output_comes_back_when_asked_for(
    tmp_path: Path,
) -> None:
    out = tmp_path / "out"
    first = make(out)
    before = content(out)
    assert make(out, source="b", force=True, finish=False) is None
    # A third one in its place removes the unfinished second, not the finished first.
    assert make(out, source="c", force=True, finish=False) is None
    assert content(aside_path(out)) == before
    with pytest.raises(OutputExistsError, match="--force"):
        make(out)
    assert make(out, force=True) == first
    assert content(out) == before
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_folder_of_others_beside_the_output_is_not_taken_for_an_earlier_one(tmp_path: Path) -> None:
    aside = aside_path(tmp_path / "out")
    aside.mkdir()
    (aside / "mine").write_text("mine")
    make(tmp_path / "out")
    make(tmp_path / "out")
    assert (aside / "mine").read_text() == "mine"
    # Where its place is needed, nothing is begun.
    before = content(tmp_path)
    with pytest.raises(OutputExistsError, match=r"no stage has written.*previous"):
        make(tmp_path / "out", source="b", force=True)
    assert content(tmp_path) == before


def test_killed_before_anything_new_was_there_the_earlier_output_is_taken_back(tmp_path: Path) -> None:
    out = tmp_path / "out"
    first = make(out)
    out.rename(aside_path(out))
    assert make(out) == first
    assert (out / "content.txt").read_text() == "a3;"


def test_a_link_to_a_directory_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk" / "real")
    for source in ("a", "b"):
        made = make(tmp_path / "out", source=source, force=True)
        assert made is not None
        assert made.path == tmp_path / "disk" / "real"
        assert (tmp_path / "out").is_symlink()
    assert (tmp_path / "disk" / "real" / "content.txt").read_text() == "b3;"
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["real"]


@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_a_mount_point_is_refused_before_any_work_and_keeps_its_content(tmp_path: Path, kind: str) -> None:
    with mounted(tmp_path / "volume", kind) as out:
        first = make(out)
        before = content(tmp_path)
        with pytest.raises(OutputExistsError, match=r"--out: cannot be moved .*volume/cohort say") as caught:
            make(out, source="b", force=True)
        assert caught.value.exit_code == 2
        assert content(tmp_path) == before
        assert make(out) == first
        # What the message advises works.
        assert make(out / "cohort", source="b") is not None


@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
@pytest.mark.parametrize("full", [False, True])
def test_nothing_can_be_put_in_the_place_of_a_mount_point(tmp_path: Path, kind: str, full: bool) -> None:
    with mounted(tmp_path / "my volume", kind) as out:
        if full:
            (out / "mine").write_text("mine")
        assert not may_be_replaced(out)
        assert may_be_replaced(tmp_path / "behind")
        with pytest.raises(OutputExistsError, match="mount point"):
            require_replaceable(out, stage="release")
        assert sorted(path.name for path in tmp_path.iterdir()) == ["behind", "my volume"]


@pytest.mark.parametrize(
    ("number", "remedy"),
    [
        (errno.EBUSY, "mount point"),
        (errno.EACCES, "Name another directory"),
        (errno.EROFS, "Name another directory"),
        (errno.EXDEV, "Name another directory"),
    ],
)
@pytest.mark.parametrize("finished", [False, True])
def test_what_the_system_does_not_move_keeps_its_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, remedy: str, finished: bool
) -> None:
    """A mount point, a parent that may not be written to, a layer of a container's image."""
    out = tmp_path / "out"
    make(out)
    if not finished:
        # Then the finished one waits, and it is the unfinished one that is to go.
        make(out, source="b", force=True, finish=False)
    before = content(tmp_path)
    refuse_to_move(monkeypatch, out, number)
    with pytest.raises(OutputExistsError, match=remedy):
        make(out, source="c", force=True)
    with pytest.raises(OutputExistsError, match=remedy):
        require_replaceable(out, stage="release")
    assert content(tmp_path) == before


def test_the_question_whether_a_directory_can_be_replaced_changes_nothing(tmp_path: Path) -> None:
    for name in ("empty", "full"):
        (tmp_path / name).mkdir(mode=0o750)
    (tmp_path / "full" / "mine").write_text("mine")
    for name in ("empty", "full"):
        require_replaceable(tmp_path / name, stage="release")
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o750
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["empty", "full", "mine"]


def test_a_lock_that_was_moved_away_before_it_was_held_guards_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import filelock

    real = filelock.lock_descriptor

    def late(handle: int, *, blocking: bool) -> bool:
        out.rename(tmp_path / "aside")
        out.mkdir()
        (out / ".lock").touch()
        return real(handle, blocking=blocking)

    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(filelock, "lock_descriptor", late)
    with (
        pytest.raises(OutputExistsError, match="another process"),
        exclusive_lock(out / ".lock", out, doing="writing"),
    ):
        pass


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
@pytest.mark.parametrize("gone", [False, True])
def test_that_work_is_kept_is_promised_only_where_it_is(
    tmp_path: Path, error: type[BaseException], gone: bool
) -> None:
    with (
        pytest.raises(error) as caught,
        open_stage(CohortRef, tmp_path / "out", inputs={}, settings=Chosen()) as stage,
    ):
        if gone:
            shutil.rmtree(stage.path)
        raise error
    assert (KEPT in getattr(caught.value, "__notes__", ())) is not gone
