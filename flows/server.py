"""The Prefect API a run talks to: the user's own server, or a temporary one that ends with the run.

Prefect can start a temporary server itself, but only within the first call to its API, after importing the
whole server into the client, and the server keeps running if the client is killed. The server started here
starts while the client imports torch. It ends when its standard input closes, which happens even after a
`kill -9`. Its database is in the run directory, because the user's database may be of another version of
Prefect, locked by another server, or in a home that cannot be written.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import IO, Any

from pipeline.errors import PhosphorError
from pipeline.storage import PRIVATE_FILE_MODE, atomic_path, cache_directory, make_private_directory

logger = logging.getLogger(__name__)

START_SECONDS = 120.0
FOLDER_NAME, DATABASE_NAME, MESSAGES_NAME = ".prefect-server", "prefect.db", "messages.txt"
LOOPBACK = ("127.0.0.1", "localhost", "::1")
DATABASE_VARIABLES = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")
ERROR_LINE = re.compile(r"[\w.]+(Error|Exception): ")
"""Last line of a traceback: later lines describe consequences, not the cause."""
LONGEST_CAUSE = 300
QUIET = {
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
    "PREFECT_SERVER_UI_V2_ENABLED": "false",
    "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(int(START_SECONDS)),
    "PREFECT_LOGGING_EXTRA_LOGGERS": "pipeline,models",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}
"""Prefect settings of every run: nothing is sent anywhere, and the stages' logs reach the flow run."""


class ServerError(PhosphorError):
    """The Prefect API cannot be reached or started."""


def set_quiet_environment(*, console: bool = False) -> None:
    """Set Prefect's environment defaults without changing what the user has set.

    Args:
        console: whether Prefect prints its own log lines too (Phosphor prints the same facts itself).
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    for name in ("no_proxy", "NO_PROXY"):
        # A proxy cannot reach this machine's own loopback address; libraries read either spelling.
        spared = [host for host in os.environ.get(name, "").split(",") if host.strip()]
        os.environ[name] = ",".join([*spared, *(host for host in LOOPBACK if host not in spared)])
    if "PREFECT_HOME" not in os.environ and not _home_is_usable():
        os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="phosphor-prefect-")
        atexit.register(shutil.rmtree, os.environ["PREFECT_HOME"], ignore_errors=True)
    if not console:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


def _home_is_usable() -> bool:
    """Return whether Prefect can keep its settings in the user's home."""
    try:
        return os.access(Path.home(), os.W_OK)
    except RuntimeError:
        return False


def configured_api_url() -> str | None:
    """Return the API address of the environment or of the active Prefect profile, if there is one."""
    from prefect.settings import get_current_settings

    return get_current_settings().api.url


@contextlib.contextmanager
def api_server(folder: Path) -> Iterator[Any]:
    """Provide a Prefect API for the block; yields a function that waits until the API answers.

    Args:
        folder: the run directory, which gets the database and the messages of a temporary server (private).

    Raises (from the yielded function):
        ServerError: no answer in time.
    """
    url = configured_api_url()
    if url:
        yield lambda: _await_health(url)
        return
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    home = make_private_directory(folder / FOLDER_NAME)
    said, keep = home / MESSAGES_NAME, _begun_database(home)
    with _private_file(said) as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "flows.server", str(port)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=None if os.environ.get("PHOSPHOR_DEBUG") else stream,
            env={**os.environ, **_own_database(home)},
            # Of its own session: an interrupt at the terminal must not end the API before the flow.
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same on Windows
        )
    url = f"http://127.0.0.1:{port}/api"

    def wait() -> None:
        _await_health(url, process, said)
        keep()

    try:
        with temporary_settings({PREFECT_API_URL: url}):
            yield wait
    finally:
        # The server ends by itself within seconds; there is no need to wait for its background services.
        if process.stdin:
            process.stdin.close()


def flush_to_api() -> None:
    """Send the log lines and events that Prefect still buffers, while the API is available."""
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    APILogWorker.drain_all(timeout=10)
    EventsWorker.drain_all(timeout=10)


def answers(url: str) -> bool:
    """Return whether a Prefect API is up at this address."""
    try:
        # The address is the user's own Prefect setting or a loopback address of this module.
        with urllib.request.urlopen(f"{url.rstrip('/')}/health", timeout=5) as answer:
            return bool(answer.status == 200)
    except (OSError, ValueError):
        return False


def _own_database(home: Path) -> dict[str, str]:
    """Return settings that keep a temporary server to its own folder, except for a database set by users."""
    own = {"PREFECT_HOME": str(home)}
    if not any(os.environ.get(name) for name in DATABASE_VARIABLES):
        own[DATABASE_VARIABLES[0]] = f"sqlite+aiosqlite:///{(home / DATABASE_NAME).as_posix()}"
    return own


def _begun_database(home: Path) -> Callable[[], None]:
    """Copy a cached database with all tables, which Prefect takes many seconds to create.

    Returns:
        A function that caches the database for the next run directory. Call it when a server is up and
        nothing has run yet.
    """
    database, kept = home / DATABASE_NAME, None
    # Without a usable cache, Prefect creates the database each time.
    with contextlib.suppress(PhosphorError, OSError):
        kept = cache_directory() / f"prefect-{version('prefect')}.db"
        if kept.is_file() and not database.exists():
            shutil.copyfile(kept, database)
    fresh = not database.exists()

    def keep() -> None:
        if kept is None or not fresh or not database.is_file():
            return
        with (
            contextlib.suppress(sqlite3.Error, PhosphorError, OSError),
            atomic_path(kept, private=True) as temporary,
            contextlib.closing(sqlite3.connect(database)) as source,
            contextlib.closing(sqlite3.connect(temporary)) as target,
        ):
            source.backup(target)

    return keep


def _private_file(path: Path) -> IO[bytes]:
    """Open an empty file that this user alone may read."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, PRIVATE_FILE_MODE), "wb")


def _cause(said: Path | None) -> str:
    """Return the last error that a server wrote before it ended, else its last line; empty without any."""
    if said is None:
        return ""
    lines = said.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    errors = [line for line in lines if ERROR_LINE.match(line)]
    return f": {(errors or lines)[-1].strip()[:LONGEST_CAUSE]}" if lines else ""


def _await_health(url: str, process: subprocess.Popen[bytes] | None = None, said: Path | None = None) -> None:
    deadline = time.monotonic() + (START_SECONDS if process else 10.0)
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            raise ServerError(
                f"the temporary Prefect server ended with code {process.returncode}{_cause(said)}",
                field="prefect",
                remedy=f"Fix the cause (see {said}), or start `prefect server start` and set "
                "PREFECT_API_URL.",
            )
        if answers(url):
            return
        time.sleep(0.05)
    if process is not None:
        raise ServerError(
            f"the temporary Prefect server did not answer within {START_SECONDS:.0f} s{_cause(said)}",
            field="prefect",
            remedy="Try again when the machine is less busy, or start `prefect server start` and set "
            "PREFECT_API_URL.",
        )
    raise ServerError(
        "the Prefect API does not answer",
        field="PREFECT_API_URL",
        remedy="Start it with `prefect server start`, or unset PREFECT_API_URL.",
    )


def _serve(port: int) -> None:
    """Serve the API on the loopback address until standard input closes (child process)."""
    os.environ.update(
        {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
    )
    import uvicorn

    def end_with_parent() -> None:
        sys.stdin.buffer.read()
        server.should_exit = True
        # Background services may take long to stop, and the parent no longer needs them.
        time.sleep(5)
        os._exit(0)

    from prefect.server.api.server import create_app

    server = uvicorn.Server(
        uvicorn.Config(create_app(), host="127.0.0.1", port=port, log_level="error", lifespan="on")
    )
    threading.Thread(target=end_with_parent, daemon=True).start()
    try:
        server.run()
    finally:
        # The thread above waits for the parent, which no ordinary end of this process could interrupt.
        sys.stderr.flush()
        os._exit(0 if server.started else 1)


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
