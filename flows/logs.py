"""Logs on stderr, and a private file for the traceback of an unexpected error."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TextIO

from pipeline.errors import StorageError, UsageError
from pipeline.storage import make_private_directory, of_the_user, write_text

DEBUG_VARIABLE = "PHOSPHOR_DEBUG"
OWN_LOGGERS = ("pipeline", "models", "flows")


class StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to the current `sys.stderr`, so that log lines do not overwrite a progress bar."""

    def __init__(self) -> None:
        logging.Handler.__init__(self)

    @property
    def stream(self) -> TextIO:  # type: ignore[override]
        """The current `sys.stderr`."""
        return sys.stderr


def set_up_logs() -> None:
    """Show messages of Phosphor's own packages on stderr, at INFO, or DEBUG under `--debug`. Repeatable.

    Of several processes of one job, only the first one logs more than warnings.
    """
    level = logging.DEBUG if debugging() else logging.INFO
    if os.environ.get("RANK", "0") != "0" and not debugging():
        level = logging.WARNING
    for name in OWN_LOGGERS:
        logger = logging.getLogger(name)
        logger.setLevel(level)
        if not any(isinstance(handler, StderrHandler) for handler in logger.handlers):
            handler = StderrHandler()
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", datefmt="%H:%M:%S"))
            logger.addHandler(handler)


def debugging() -> bool:
    """Return whether `--debug` (or the environment variable behind it) asks for tracebacks."""
    return os.environ.get(DEBUG_VARIABLE, "") not in {"", "0"}


def where_raised(error: BaseException) -> str:
    """Return type and place of an error, without its message: a message may hold a path or a name."""
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{place}"


def write_failure(error: BaseException) -> Path:
    """Write the full traceback to a new private file and return its path.

    The file is in the user's log folder, or in a temporary folder if the user has no home.
    """
    from platformdirs import user_log_path

    try:
        folder = make_private_directory(of_the_user(user_log_path, ""))
    except (UsageError, StorageError, OSError):
        folder = Path(tempfile.mkdtemp(prefix="phosphor-log-"))
    path = folder / f"failure-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.log"
    write_text(path, "".join(traceback.format_exception(error)), private=True)
    return path
