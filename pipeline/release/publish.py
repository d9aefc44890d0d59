"""Publishes a directory atomically: written to a temporary folder, synced, then renamed into place."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pipeline.errors import OutputExistsError, StorageError
from pipeline.locking import exclusive_lock
from pipeline.replacing import require_replaceable
from pipeline.storage import (
    ON_WINDOWS,
    free_bytes,
    make_private_directory,
    storage_errors,
    sync_directory,
)

PUBLIC_DIRECTORY_MODE = 0o755
PUBLIC_FILE_MODE = 0o644
_BLOCK = 4096
_SYNC_THREADS = 16
_AT_FDCWD = -100
_RENAME_EXCHANGE = 2


@contextlib.contextmanager
def release_lock(out: Path) -> Iterator[None]:
    """Hold the lock of an output name; the kernel releases it if the process is killed.

    Raises:
        OutputExistsError: another process is releasing to the same name.
    """
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(out.parent / f".{out.name}.lock", out, doing="releasing"):
        yield


def fresh_partial(out: Path, inputs_digest: str) -> Path:
    """Return an empty private folder beside `out`; leftovers of killed releases to this name are removed."""
    for left in leftovers(out):
        with storage_errors(left):
            shutil.rmtree(left)
    return make_private_directory(out.parent / f".{out.name}.partial-{inputs_digest[:16]}")


def leftovers(out: Path) -> list[Path]:
    """Return the folders that killed releases to `out` left behind."""
    return [
        path
        for path in sorted(out.parent.iterdir())
        if path.name.startswith(f".{out.name}.partial-") and path.is_dir() and not path.is_symlink()
    ]


def require_space(out: Path, needed: int) -> None:
    """Check the free space before anything is written.

    Raises:
        StorageError: there is less than `needed` bytes.
    """
    free = free_bytes(out.parent)
    if free < needed:
        raise StorageError(
            f"about {needed / 2**20:.1f} MiB are needed, but {free / 2**20:.1f} MiB are free",
            field="--out",
            value=str(out),
            remedy="Free space, or name a directory on another disk; nothing was written.",
        )


def estimate_bytes(num_images: int, image_size: tuple[int, int], bit_depth: int) -> int:
    """Return an upper bound of the disk space of a release, in bytes.

    An incompressible image takes its pixels plus about 600 bytes of PNG structure and marks, rounded up to
    whole blocks. The tables and lists take about 1 KiB per row, all other files about 2 MiB.
    """
    height, width = image_size
    image = height * (width * bit_depth // 8 + 1) + 600
    blocks = -(-image // _BLOCK) * _BLOCK
    return num_images * (blocks + 1024) + 2 * 2**20


def sync_tree(folder: Path) -> None:
    """Flush every file and directory below `folder` to disk, and set the public modes.

    Several threads flush files concurrently, so that the disk can commit many at once.
    """
    files = [Path(parent) / name for parent, _, names in os.walk(folder) for name in names]
    with storage_errors(folder), ThreadPoolExecutor(_SYNC_THREADS) as pool:
        for _ in pool.map(_sync_file, files):
            pass
        for parent, _, _ in os.walk(folder):
            if Path(parent) != folder:
                Path(parent).chmod(PUBLIC_DIRECTORY_MODE)
            sync_directory(Path(parent))


def _sync_file(path: Path) -> None:
    path.chmod(PUBLIC_FILE_MODE)
    # Opened for writing: Windows does not flush other files.
    with path.open("rb+") as stream:
        os.fsync(stream.fileno())


def require_place(out: Path) -> None:
    """Check, before the work is done, that a release can be put at `out` in one step.

    Raises:
        OutputExistsError: `out` cannot be replaced (a mount point, for example), or the disk cannot exchange
            directories.
    """
    if not out.is_dir():
        return
    require_replaceable(out, stage="release")
    if any(out.iterdir()):
        with storage_errors(out), contextlib.ExitStack() as made:
            first, second = (
                made.enter_context(
                    tempfile.TemporaryDirectory(prefix=f".{out.name}.partial-probe-", dir=out.parent)
                )
                for _ in range(2)
            )
            _exchange(Path(first), Path(second), out)


def put_in_place(partial: Path, out: Path) -> None:
    """Rename the finished folder to its public name; an earlier release there is exchanged, then removed.

    The exchange is one system call (`renameat2`), so a kill at any time leaves either the earlier or the new
    release complete at `out`. The next release removes leftovers beside it.
    """
    with storage_errors(out):
        partial.chmod(PUBLIC_DIRECTORY_MODE)
        if out.is_dir() and any(out.iterdir()):
            _exchange(partial, out, out)
            sync_directory(out.parent)
            shutil.rmtree(partial)
        else:
            if out.is_dir():
                # Windows cannot replace a folder by another, not even an empty one.
                out.rmdir()
            partial.replace(out)
            sync_directory(out.parent)


def _exchange(first: Path, second: Path, out: Path) -> None:
    """Exchange two directories atomically; `out` is named in the error if this is not possible."""
    library = None if ON_WINDOWS else ctypes.CDLL(None, use_errno=True)
    rename = getattr(library, "renameat2", None)
    code = errno.ENOSYS
    if rename is not None:
        done = rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE)
        code = 0 if done == 0 else ctypes.get_errno()
    if code in (errno.ENOSYS, errno.EINVAL):
        raise OutputExistsError(
            "this disk cannot exchange two directories in one step",
            field="--out",
            value=str(out),
            remedy="Remove the earlier release yourself, or name another directory.",
        )
    if code:
        raise OSError(code, os.strerror(code), str(second))
