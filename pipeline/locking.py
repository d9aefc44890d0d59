"""One writer to a directory at a time: locks that the system frees after a kill."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from pipeline.errors import OutputExistsError, StorageError
from pipeline.storage import ON_WINDOWS, PRIVATE_FILE_MODE, storage_errors

LOCK_NAME = ".lock"


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
            held = lock_descriptor(handle, blocking=False) and _is_at(handle, lock)
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


def _is_at(handle: int, lock: Path) -> bool:
    """Return whether the open file is the one at `lock`: one that --force has moved since guards nothing."""
    try:
        return os.path.samestat(os.fstat(handle), lock.stat())
    except FileNotFoundError:
        return False
