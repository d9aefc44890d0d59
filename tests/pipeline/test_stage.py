"""The stage protocol: reuse the same, resume the unfinished, refuse the foreign, notice the edited."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import filelock
import pytest

from pipeline.config import Settings, read_model
from pipeline.errors import DataError, OutputExistsError, StorageError, TamperedError
from pipeline.locking import exclusive_lock
from pipeline.records import CheckpointRef, CohortRef, Reference
from pipeline.stage import (
    StageInputs,
    State,
    aside_path,
    load_reference,
    open_stage,
    reference_of,
    verify_reference,
)

REPOSITORY = Path(__file__).resolve().parents[2]


class Chosen(Settings):
    size: int = 3


def make(
    out: Path, *, size: int = 3, source: str = "a", force: bool = False, finish: bool = True
) -> CohortRef | None:
    """Open `out`, write one content file unless it is finished, and finish it if asked to."""
    with open_stage(
        CohortRef, out, inputs={"source": source}, settings=Chosen(size=size), force=force
    ) as stage:
        if stage.finished is not None:
            return stage.finished
        with (stage.path / "content.txt").open("a") as stream:
            stream.write(f"{source}{size};")
        return stage.finish(["content.txt"], {"scans": size}) if finish else None


def test_the_same_output_is_reused(tmp_path: Path) -> None:
    first = make(tmp_path / "out")
    assert make(tmp_path / "out") == first
    assert (tmp_path / "out" / "content.txt").read_text() == "a3;"


def test_an_unfinished_output_of_the_same_inputs_is_gone_on_with(tmp_path: Path) -> None:
    assert make(tmp_path / "out", finish=False) is None
    with pytest.raises(DataError, match=r"reference\.json is missing"):
        load_reference(CohortRef, tmp_path / "out")
    assert make(tmp_path / "out") is not None
    assert (tmp_path / "out" / "content.txt").read_text() == "a3;a3;"


@pytest.mark.parametrize("change", [{"size": 4}, {"source": "b"}])
def test_an_output_of_other_inputs_is_refused_and_kept_unless_forced(
    tmp_path: Path, change: dict[str, object]
) -> None:
    first = make(tmp_path / "out")
    with pytest.raises(OutputExistsError, match="--force"):
        make(tmp_path / "out", **change)  # type: ignore[arg-type]
    assert load_reference(CohortRef, tmp_path / "out") == first
    made = make(tmp_path / "out", **change, force=True)  # type: ignore[arg-type]
    assert made is not None
    assert first is not None
    assert made.digest != first.digest


def test_the_refusal_of_an_unfinished_output_says_that_it_is_unfinished(tmp_path: Path) -> None:
    make(tmp_path / "out", finish=False)
    with pytest.raises(OutputExistsError, match="of other inputs or settings, which is unfinished"):
        make(tmp_path / "out", size=4)
    make(tmp_path / "out", size=4, force=True)
    with pytest.raises(OutputExistsError) as refused:
        make(tmp_path / "out")
    assert "unfinished" not in str(refused.value)


def test_an_output_of_an_earlier_version_of_the_stage_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make(tmp_path / "out")
    monkeypatch.setattr(CohortRef, "version", CohortRef.version + 1)
    with pytest.raises(OutputExistsError, match="holds the cohort of other inputs or settings"):
        make(tmp_path / "out")
    assert make(tmp_path / "out", force=True) is not None


def test_a_folder_with_files_of_someone_else_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").write_text("three years of work")
    for force in (False, True):
        with pytest.raises(OutputExistsError, match="no stage has written"):
            make(tmp_path, force=force)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.docx"]


def test_two_processes_cannot_write_to_one_directory(tmp_path: Path) -> None:
    with (
        open_stage(CohortRef, tmp_path / "out", inputs={"source": "a"}, settings=Chosen()),
        pytest.raises(OutputExistsError, match="another process is writing"),
    ):
        make(tmp_path / "out")
    assert make(tmp_path / "out") is not None


def test_force_removes_nothing_that_another_process_is_writing(tmp_path: Path) -> None:
    with open_stage(CohortRef, tmp_path / "out", inputs={"source": "a"}, settings=Chosen()) as stage:
        (stage.path / "content.txt").write_text("half done")
        with pytest.raises(OutputExistsError, match="another process is writing"):
            make(tmp_path / "out", size=4, force=True)
        assert (stage.path / "content.txt").read_text() == "half done"
    assert make(tmp_path / "out", size=4, force=True) is not None


def locked(tmp_path: Path) -> contextlib.AbstractContextManager[None]:
    return exclusive_lock(tmp_path / ".lock", tmp_path, doing="writing")


def test_a_lock_keeps_out_a_second_holder_in_the_same_thread_and_in_another(tmp_path: Path) -> None:
    found: list[str] = []

    def try_it() -> None:
        try:
            with locked(tmp_path):
                found.append("free")
        except OutputExistsError:
            found.append("held")

    with locked(tmp_path):
        try_it()
        thread = threading.Thread(target=try_it)
        thread.start()
        thread.join()
    try_it()
    assert found == ["held", "held", "free"]


def test_an_error_inside_frees_the_lock_and_its_file(tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="inside"), locked(tmp_path):
            raise ValueError("inside")
    assert handles_of(tmp_path) == []


def handles_of(folder: Path) -> list[str]:
    """Return the files below a folder that this process has open."""
    handles = [handle.resolve() for handle in Path("/proc/self/fd").iterdir()]
    return [str(path) for path in handles if path.is_relative_to(folder)]


def test_a_killed_holder_frees_the_lock_and_its_empty_file_does_no_harm(tmp_path: Path) -> None:
    program = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from pipeline.locking import exclusive_lock\n"
        "folder = Path(sys.argv[1])\n"
        "with exclusive_lock(folder / '.lock', folder, doing='writing'):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(600)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(OutputExistsError, match="another process is writing"), locked(tmp_path):
            pass
        os.kill(holder.pid, signal.SIGKILL)
        holder.wait()
    status = (tmp_path / ".lock").stat()
    assert (status.st_size, status.st_mode & 0o777) == (0, 0o600)
    with locked(tmp_path):
        pass


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.EACCES, "cannot be written"),
        (errno.EROFS, "cannot be written"),
        (errno.ENOSPC, "no space left"),
    ],
)
def test_a_folder_that_takes_no_lock_file_is_told_as_what_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    def refuse(path: object, *_: object) -> int:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StorageError, match=words), locked(tmp_path):
        pass


def test_a_lock_file_that_is_removed_before_it_is_locked_guards_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(handle: int, *, blocking: bool) -> bool:
        (tmp_path / ".lock").unlink()
        return real(handle, blocking=blocking)

    real = filelock.lock_descriptor
    monkeypatch.setattr(filelock, "lock_descriptor", late)
    with pytest.raises(OutputExistsError, match="another process"), locked(tmp_path):
        pass


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
def test_a_disk_without_locks_is_not_told_as_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Lustre without `-o flock`, NFS without a lock daemon, some drivers in user space."""

    def refuse(_handle: int, _operation: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(StorageError, match=r"keeps no file locks \(.+\).*local disk") as caught:
        make(tmp_path / "out")
    assert "another process" not in str(caught.value)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".lock"]
    assert handles_of(tmp_path) == []
    monkeypatch.undo()
    assert make(tmp_path / "out") is not None


def test_an_edited_content_file_or_reference_is_noticed(tmp_path: Path) -> None:
    made = make(tmp_path / "out")
    assert verify_reference(CohortRef, tmp_path / "out") == made
    path = tmp_path / "out" / "reference.json"
    body = json.loads(path.read_text())
    path.write_text(json.dumps({**body, "files": {}}))
    with pytest.raises(TamperedError, match=r"reference\.json was edited"):
        verify_reference(CohortRef, tmp_path / "out")
    path.write_text(json.dumps(body))
    (tmp_path / "out" / "content.txt").write_text("other")
    with pytest.raises(TamperedError, match=r"content\.txt differs"):
        verify_reference(CohortRef, tmp_path / "out")


def test_an_output_of_another_stage_is_not_taken_for_this_ones(tmp_path: Path) -> None:
    make(tmp_path / "out")
    with pytest.raises(DataError, match="not an output of the checkpoint stage"):
        load_reference(CheckpointRef, tmp_path / "out")


def test_outputs_are_private(tmp_path: Path) -> None:
    make(tmp_path / "out")
    assert (tmp_path / "out").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "out" / "reference.json").stat().st_mode & 0o777 == 0o600


def test_every_reference_has_a_stage_name_of_its_own_and_a_version() -> None:
    kinds = [kind for kind in Reference.__subclasses__() if kind.__module__ == "pipeline.records"]
    assert len({kind.stage for kind in kinds}) == len(kinds) == 7
    assert all(kind.version >= 1 for kind in kinds)


class _Point(Settings):
    kind: ClassVar[str] = "point"
    x: int


def test_a_model_file_is_read_or_refused_by_field(tmp_path: Path) -> None:
    path = tmp_path / "point.json"
    path.write_text('{"x": 3}')
    assert read_model(_Point, path, role="point", remedy="Draw it.") == _Point(x=3)
    path.write_text('{"x": "three"}')
    with pytest.raises(TamperedError, match=r"point\.json: x: .*got 'three'\)\. Draw it\."):
        read_model(_Point, path, role="point", remedy="Draw it.", error=TamperedError)
    path.write_text("{")
    with pytest.raises(DataError, match="not valid JSON"):
        read_model(_Point, path, role="point", remedy="Draw it.")
    path.unlink()
    with pytest.raises(DataError, match="is missing"):
        read_model(_Point, path, role="point", remedy="Draw it.")


def nothing(out: Path) -> None:
    pass


def empty(out: Path) -> None:
    out.mkdir()


def cut_off_at_the_first_file(out: Path) -> None:
    out.mkdir()
    (out / ".inputs-abc.partial.json").write_text("{")


def same(out: Path) -> None:
    make(out)


def same_unfinished(out: Path) -> None:
    make(out, finish=False)


def another(out: Path) -> None:
    make(out, size=4)


def another_unfinished(out: Path) -> None:
    make(out, size=4, finish=False)


def another_begun_over_the_same(out: Path) -> None:
    make(out)
    make(out, size=4, force=True, finish=False)
    assert (aside_path(out) / "reference.json").is_file()


def killed_after_the_same_was_set_aside(out: Path) -> None:
    make(out)
    out.rename(aside_path(out))


def of_someone_else(out: Path) -> None:
    out.mkdir()
    (out / "thesis.docx").write_text("three years of work")


def a_file(out: Path) -> None:
    out.write_text("")


@pytest.mark.parametrize("force", [False, True])
@pytest.mark.parametrize(
    "situation",
    [
        nothing,
        empty,
        cut_off_at_the_first_file,
        same,
        same_unfinished,
        another,
        another_unfinished,
        another_begun_over_the_same,
        killed_after_the_same_was_set_aside,
        of_someone_else,
        a_file,
    ],
)
def test_the_state_of_a_directory_foretells_what_opening_it_does(
    tmp_path: Path, situation: Callable[[Path], None], force: bool
) -> None:
    out = tmp_path / "out"
    situation(out)
    wanted = StageInputs(CohortRef, {"source": "a"}, Chosen())
    before = sorted(str(path) for path in tmp_path.rglob("*"))
    foretold = wanted.state(out, force=force)
    assert sorted(str(path) for path in tmp_path.rglob("*")) == before
    others = (out / "inputs.json").is_file() and "4" in (out / "content.txt").read_text()
    try:
        with wanted.open(out, force=force) as stage:
            opened = State.REPLACE if others else State.NEW
            if stage.resumed:
                opened = State.REUSE if stage.finished is not None else State.RESUME
    except OutputExistsError:
        opened = State.REFUSE
    assert foretold is opened


def test_inputs_that_are_not_there_yet_fit_no_output(tmp_path: Path) -> None:
    made = make(tmp_path / "out")
    assert made is not None
    unknown = StageInputs(CohortRef, {"source": None}, Chosen())
    assert unknown.state(tmp_path / "out") is State.REFUSE
    assert unknown.state(tmp_path / "elsewhere") is State.NEW
    assert unknown.reading(source="a").digest == made.inputs_digest


def test_an_output_is_given_by_its_path_or_its_reference(tmp_path: Path) -> None:
    made = make(tmp_path / "out")
    assert made is not None
    assert reference_of(CohortRef, made.path) == made == reference_of(CohortRef, made)
    assert verify_reference(CohortRef, made.path) == made == verify_reference(CohortRef, made)
    stale = made.model_copy(update={"digest": "0" * 64})
    with pytest.raises(DataError, match="another cohort than the one asked for"):
        verify_reference(CohortRef, stale)
