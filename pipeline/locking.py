"""Locks for one writer per directory, which the system releases after a kill."""

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
    """Move or remove an output directory with `change`, unless another process is writing to it.

    Raises:
        OutputExistsError: another process is writing to it.
    """
    with exclusive_lock(out / LOCK_NAME, out, doing="writing"):
        if not ON_WINDOWS:
            change()
    if ON_WINDOWS:
        # Windows does not move or remove a folder while a file in it is open, locked or memory-mapped, even
        # by an object that is no longer used.
        gc.collect()
        change()


@contextlib.contextmanager
def exclusive_lock(lock: Path, out: Path, *, doing: str) -> Iterator[None]:
    """Hold a lock on the file `lock` inside the block; the system releases it after a kill.

    The lock is exclusive, also within this process. A file whose existence is the lock would stay after a
    kill, so a disk without file locks is refused.

    Args:
        lock: lock file, created with mode 0600 if it does not exist; it is kept and has no meaning of its
            own.
        out: output directory that the lock protects, for the error.
        doing: action of the holder, for the error (`writing`, `releasing`).

    Raises:
        OutputExistsError: another process holds the lock.
        StorageError: the lock file cannot be created, or the disk does not support locks.
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
            # Windows may release the lock of a closed file with a delay.
            unlock_descriptor(handle)
    finally:
        os.close(handle)


def _is_at(handle: int, lock: Path) -> bool:
    """Return whether the open file is still at `lock`: a file that --force has moved protects nothing."""
    try:
        return os.path.samestat(os.fstat(handle), lock.stat())
    except FileNotFoundError:
        return False
