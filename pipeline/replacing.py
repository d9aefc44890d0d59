"""Replacement of a directory by another, which either succeeds as a whole or changes nothing."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import tempfile
from pathlib import Path

from pipeline.errors import OutputExistsError
from pipeline.storage import ON_WINDOWS

logger = logging.getLogger(__name__)


def move_aside(out: Path, aside: Path, *, stage: str) -> None:
    """Move a directory to `aside` in the same folder, then remove what was at `aside` before.

    Args:
        out: directory to move.
        aside: new path, in the same folder.
        stage: name of the stage that writes to `out`, for the remedy.

    Raises:
        OutputExistsError: the directory cannot be moved; nothing was changed.
    """
    former = aside.with_name(f"{aside.name}.former")
    shutil.rmtree(former, ignore_errors=True)
    if aside.exists():
        _move(aside, former, stage)
    try:
        _move(out, aside, stage)
    except OutputExistsError:
        if former.exists():
            former.rename(aside)
        raise
    shutil.rmtree(former, ignore_errors=True)


def discard(out: Path, *, stage: str) -> None:
    """Remove a directory. If it cannot be removed as a whole, it keeps its content.

    Raises:
        OutputExistsError: the directory cannot be moved, so only its content could be removed.
    """
    dropped = out.with_name(f".{out.name}.dropped")
    shutil.rmtree(dropped, ignore_errors=True)
    _move(out, dropped, stage)
    shutil.rmtree(dropped, ignore_errors=True)
    if dropped.exists():
        logger.warning("%s could not be removed: remove it yourself", dropped)


def require_replaceable(out: Path, *, stage: str) -> None:
    """Check that `out` could be replaced by another directory, without changing it.

    The check renames an empty directory to `out`. If a replacement is possible, the system refuses the rename
    only because `out` is not empty. An empty `out` is replaced by the empty directory, which changes nothing.

    Args:
        out: existing directory.
        stage: name of the stage that writes to it, for the remedy.

    Raises:
        OutputExistsError: it is a mount point, or its parent is not writable.
    """
    if ON_WINDOWS:
        # Windows does not rename a directory to an existing one, not even to an empty one.
        return
    try:
        probe = Path(tempfile.mkdtemp(prefix=f".{out.name}.partial-probe-", dir=out.parent))
    except OSError as error:
        raise _not_replaceable(out, error, stage) from error
    try:
        probe.chmod(out.stat().st_mode & 0o7777)
        probe.replace(out)
    except OSError as error:
        if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
            raise _not_replaceable(out, error, stage) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            probe.rmdir()


def may_be_replaced(out: Path) -> bool:
    """Return whether a directory can probably be moved, without writing anything."""
    out = out.resolve()
    return not _is_mount_point(out) and os.access(out.parent, os.W_OK | os.X_OK)


def _is_mount_point(path: Path) -> bool:
    """Return whether a path is a mount point; Linux also lists bind mounts of the same disk."""
    try:
        mounts = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        mounts = []
    named = str(path.resolve()).replace("\\", "\\134").replace(" ", "\\040")
    return os.path.ismount(path) or any(line.split()[4] == named for line in mounts)


def _move(path: Path, target: Path, stage: str) -> None:
    try:
        path.rename(target)
    except OSError as error:
        raise _not_replaceable(path, error, stage) from error


def _not_replaceable(out: Path, error: OSError, stage: str) -> OutputExistsError:
    if error.errno == errno.EBUSY or _is_mount_point(out):
        remedy = (
            f"It is a mount point, such as a container's volume: name a folder inside it, {out / stage} say."
        )
    else:
        remedy = "Name another directory, or remove this one yourself if nobody needs it."
    return OutputExistsError(
        f"cannot be moved ({error.strerror}), so nothing can be put in its place; what it holds was kept",
        field="--out",
        value=str(out),
        remedy=remedy,
    )
