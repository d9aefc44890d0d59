"""Putting a directory in the place of another: moved as a whole, or refused while all is as it was."""

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
    """Move a directory to `aside` beside it; what was there is removed once this is done.

    Args:
        out: the directory.
        aside: its new path, in the same folder.
        stage: name of the stage that writes to `out`, for the remedy.

    Raises:
        OutputExistsError: the directory cannot be moved; everything is where it was.
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
    """Remove a directory; one that cannot be removed as a whole keeps its content.

    Raises:
        OutputExistsError: the directory cannot be moved, so it would be emptied and stay.
    """
    dropped = out.with_name(f".{out.name}.dropped")
    shutil.rmtree(dropped, ignore_errors=True)
    _move(out, dropped, stage)
    shutil.rmtree(dropped, ignore_errors=True)
    if dropped.exists():
        logger.warning("%s could not be removed: remove it yourself", dropped)


def require_replaceable(out: Path, *, stage: str) -> None:
    """Check that another directory could be put in the place of `out`, and leave it as it is.

    The system is asked to put an empty directory there. Where that is possible at all, it refuses since `out`
    is not empty; an empty one is replaced by the other, which changes nothing.

    Args:
        out: an existing directory.
        stage: name of the stage that writes to it, for the remedy.

    Raises:
        OutputExistsError: it is a mount point, or its parent may not be written to.
    """
    if ON_WINDOWS:
        # It puts no directory in the place of another, not even of an empty one.
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
    """Tell, as far as can be told without writing, whether a directory could be moved."""
    out = out.resolve()
    return not _is_mount_point(out) and os.access(out.parent, os.W_OK | os.X_OK)


def _is_mount_point(path: Path) -> bool:
    """Tell whether something is mounted there; Linux lists folders of the same disk too."""
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
