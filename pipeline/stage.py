"""The protocol every stage follows: reuse what is done, resume what is half done, refuse what is foreign."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from pydantic import ValidationError

from pipeline.config import Settings
from pipeline.errors import DataError, OutputExistsError, StorageError, TamperedError
from pipeline.records import Reference
from pipeline.storage import (
    ON_WINDOWS,
    PRIVATE_FILE_MODE,
    digest_files,
    digest_of,
    make_private_directory,
    read_json,
    sha256_file,
    storage_errors,
    write_json,
)

INPUTS_NAME = "inputs.json"
REFERENCE_NAME = "reference.json"
LOCK_NAME = ".lock"

RefT = TypeVar("RefT", bound=Reference)


@dataclass(frozen=True)
class StageFolder(Generic[RefT]):
    """An opened output directory.

    Attributes:
        kind: the reference class of the stage.
        path: the output directory (exists; of mode 0700 if it was made here).
        inputs_digest: digest of all that determines the content.
        finished: the reference if the same output was finished before (nothing is left to do), else None.
        resumed: whether an unfinished output of the same inputs was found.
    """

    kind: type[RefT]
    path: Path
    inputs_digest: str
    finished: RefT | None
    resumed: bool

    def finish(self, files: list[str], counts: Mapping[str, int], **extra: Any) -> RefT:
        """Record the content files' digests and counts; written last, it marks the output as complete.

        Args:
            files: names of the content files relative to `path`; logs, times and pictures stay out.
            counts: whole numbers worth showing.
            **extra: further fields of the reference class (for example `verdict`).
        """
        hashes = digest_files(self.path, files)
        reference = self.kind(
            path=self.path.resolve(),
            digest=digest_of(hashes),
            inputs_digest=self.inputs_digest,
            counts=dict(counts),
            **extra,
        )
        body = reference.model_dump(mode="json", exclude={"path"})
        write_json(
            self.path / REFERENCE_NAME, {"stage": self.kind.stage, "files": hashes, **body}, private=True
        )
        return reference


@contextlib.contextmanager
def open_stage(
    kind: type[RefT],
    out: Path,
    *,
    inputs: Mapping[str, str],
    settings: Settings,
    seed: int | None = None,
    force: bool = False,
) -> Iterator[StageFolder[RefT]]:
    """Open a stage's output directory under a lock.

    Args:
        kind: reference class of the stage.
        out: the output directory.
        inputs: digests of what the stage reads, by role.
        settings: the stage's settings; they and the digest are kept in `inputs.json` beside the output.
        seed: the run seed, for stages that draw random numbers.
        force: remove an existing output of other inputs instead of refusing it.

    Raises:
        OutputExistsError: the directory holds an output of other inputs, or files that are not ours.
    """
    described = _described(kind, inputs, settings, seed)
    inputs_digest = digest_of(described)
    out = out.absolute()
    _refuse_foreign(kind, out, inputs_digest, force)
    make_private_directory(out)
    with exclusive_lock(out / LOCK_NAME, out, doing="writing"):
        earlier = _recorded_inputs(out)
        if earlier != inputs_digest:
            write_json(out / INPUTS_NAME, {**described, "inputs_digest": inputs_digest}, private=True)
        finished = load_reference(kind, out) if (out / REFERENCE_NAME).is_file() else None
        yield StageFolder(kind, out, inputs_digest, finished, resumed=earlier == inputs_digest)


def digest_of_inputs(
    kind: type[Reference], inputs: Mapping[str, str], settings: Settings, seed: int | None = None
) -> str:
    """Return the digest by which `open_stage` tells an output of these inputs."""
    return digest_of(_described(kind, inputs, settings, seed))


def _described(
    kind: type[Reference], inputs: Mapping[str, str], settings: Settings, seed: int | None
) -> dict[str, Any]:
    return {
        "stage": kind.stage,
        "version": kind.version,
        "inputs": dict(inputs),
        "settings": settings.model_dump(mode="json"),
        "seed": seed,
    }


def load_reference(kind: type[RefT], folder: Path) -> RefT:
    """Read the reference of a finished output directory, without re-reading its content.

    Raises:
        DataError: not a finished output of this stage.
    """
    body = read_json(folder / REFERENCE_NAME, role=kind.stage)
    if not isinstance(body, dict) or body.pop("stage", None) != kind.stage:
        raise DataError(
            f"not an output of the {kind.stage} stage",
            field=kind.stage,
            value=str(folder),
            remedy=f"Name a finished {kind.stage} directory.",
        )
    body.pop("files", None)
    try:
        return kind(path=folder.resolve(), **body)
    except (ValidationError, TypeError) as error:
        raise TamperedError(
            "reference.json does not have the expected fields",
            field=kind.stage,
            remedy="Make this output again.",
        ) from error


def verify_reference(kind: type[RefT], folder: Path) -> RefT:
    """Read the reference and re-hash every content file against it.

    Raises:
        TamperedError: a content file is missing or differs from what was recorded.
    """
    reference = load_reference(kind, folder)
    files = read_json(folder / REFERENCE_NAME, role=kind.stage).get("files")
    if not isinstance(files, dict) or digest_of(files) != reference.digest:
        raise TamperedError("reference.json was edited", field=kind.stage, remedy="Make this output again.")
    for name, expected in files.items():
        path = folder / name
        inside = path.resolve().is_relative_to(folder.resolve())
        if not inside or not path.is_file() or sha256_file(path) != expected:
            raise TamperedError(
                f"{name} differs from what was recorded when it was made",
                field=kind.stage,
                remedy="Make this output again; nothing was written.",
            )
    return reference


def _recorded_inputs(out: Path) -> str | None:
    path = out / INPUTS_NAME
    if not path.is_file():
        return None
    body = read_json(path, role=INPUTS_NAME)
    return str(body.get("inputs_digest")) if isinstance(body, dict) else None


def _refuse_foreign(kind: type[RefT], out: Path, inputs_digest: str, force: bool) -> None:
    if out.is_file():
        raise OutputExistsError("is a file", field="--out", value=str(out), remedy="Name a directory.")
    present = [entry for entry in out.iterdir() if entry.name != LOCK_NAME] if out.is_dir() else []
    if not present:
        return
    recorded = _recorded_inputs(out)
    if recorded == inputs_digest:
        return
    if recorded is None and not all(
        entry.name.startswith(f".{Path(INPUTS_NAME).stem}-") for entry in present
    ):
        raise OutputExistsError(
            "holds files that no stage has written",
            field="--out",
            value=str(out),
            remedy="Name another directory.",
        )
    if not force and recorded is not None:
        raise OutputExistsError(
            f"holds a {kind.stage} made from other inputs or settings",
            field="--out",
            value=str(out),
            remedy="Name another directory, or give --force to replace it.",
        )
    with storage_errors(out):
        change_unused(out, lambda: shutil.rmtree(out))


def change_unused(out: Path, change: Callable[[], object]) -> None:
    """Move or remove an output directory by `change`, unless somebody is writing to it.

    Raises:
        OutputExistsError: another process is.
    """
    with exclusive_lock(out / LOCK_NAME, out, doing="writing"):
        if not ON_WINDOWS:
            change()
    if ON_WINDOWS:
        # No folder is moved or removed there while a file in it is open: not ours, nor one locked by now, nor
        # one that is mapped by what nobody needs any more.
        gc.collect()
        change()


@contextlib.contextmanager
def exclusive_lock(lock: Path, out: Path, *, doing: str) -> Iterator[None]:
    """Hold a lock on the file `lock` inside the block; the system frees it after a kill.

    It keeps out every other holder, in this process too. A lock that is a mere file would stay behind after a
    kill, so on a disk without real ones nothing is done at all.

    Args:
        lock: the lock file, made with mode 0600 if it is not there; it stays, and means nothing by itself.
        out: the output directory that it guards, named in the error.
        doing: what the holder does to it, in the error's words (`writing`, `releasing`).

    Raises:
        OutputExistsError: another process holds the lock.
        StorageError: the lock file cannot be made, or the disk keeps no locks.
    """
    from filelock import lock_descriptor, unlock_descriptor

    with storage_errors(out):
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, PRIVATE_FILE_MODE)
    try:
        try:
            # A file that --force has removed since it was opened guards nothing.
            held = lock_descriptor(handle, blocking=False) and os.fstat(handle).st_nlink > 0
        except OSError as error:
            raise StorageError(
                f"the disk keeps no file locks ({error.strerror}), so two runs could write there at once",
                field="--out",
                value=str(out),
                remedy="Name a directory on a local disk, or have this one mounted with locks "
                "(Lustre: -o flock).",
            ) from error
        if not held:
            raise OutputExistsError(
                f"another process is {doing} to this directory",
                field="--out",
                value=str(out),
                remedy="Wait for it, or name another directory.",
            )
        try:
            yield
        finally:
            # Windows may take its time to free the lock of a file that is merely closed.
            unlock_descriptor(handle)
    finally:
        os.close(handle)
