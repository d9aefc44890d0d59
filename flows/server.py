"""The Prefect API a run talks to: the user's own server, or a temporary one that ends with the run.

Prefect can start a temporary server itself, but only from inside the first call to its API, after importing
the whole server into the client too, and it leaves the server behind when the client is killed. The one
started here comes up while the client imports torch, and it ends when its standard input closes, which the
kernel does for it even after a `kill -9`. Its database is Prefect's own (`PREFECT_HOME`), so a later
`prefect server start` shows the runs.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from typing import Any

from pipeline.errors import PhosphorError

logger = logging.getLogger(__name__)

START_SECONDS = 120.0
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
    """Set Prefect's environment defaults; what the user has set stays.

    Args:
        console: whether Prefect prints its own log lines too (Phosphor prints the same facts itself).
    """
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    if not console:
        os.environ.setdefault("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "CRITICAL")


def configured_api_url() -> str | None:
    """Return the API address of the environment or of the active Prefect profile, if there is one."""
    from prefect.settings import get_current_settings

    return get_current_settings().api.url


@contextlib.contextmanager
def api_server() -> Iterator[Any]:
    """Provide a Prefect API for the block; yields a function that waits until the API answers.

    Raises (from the yielded function):
        ServerError: no answer in time.
    """
    url = configured_api_url()
    if url:
        yield lambda: _await_health(url, None)
        return
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.server", str(port)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=None if os.environ.get("PHOSPHOR_DEBUG") else subprocess.DEVNULL,
        # Of its own session: an interrupt at the terminal must not end the API before the flow.
        start_new_session=True,
        creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),  # the same on Windows
    )
    url = f"http://127.0.0.1:{port}/api"
    try:
        with temporary_settings({PREFECT_API_URL: url}):
            yield lambda: _await_health(url, process)
    finally:
        # The server ends by itself within seconds; nobody needs to wait for its background services.
        if process.stdin:
            process.stdin.close()


def flush_to_api() -> None:
    """Send the log lines and events that Prefect still holds, while the API is there to take them."""
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


def _await_health(url: str, process: subprocess.Popen[bytes] | None) -> None:
    deadline = time.monotonic() + (START_SECONDS if process else 10.0)
    while time.monotonic() < deadline:
        if process is not None and process.poll() is not None:
            raise ServerError(
                f"the temporary Prefect server ended with code {process.returncode}",
                field="prefect",
                remedy="Run `phosphor doctor`, or start `prefect server start` and set PREFECT_API_URL.",
            )
        if answers(url):
            return
        time.sleep(0.05)
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
        # Background services may take long to stop; the parent is gone or has all it needs.
        time.sleep(5)
        os._exit(0)

    from prefect.server.api.server import create_app

    server = uvicorn.Server(
        uvicorn.Config(create_app(), host="127.0.0.1", port=port, log_level="error", lifespan="on")
    )
    threading.Thread(target=end_with_parent, daemon=True).start()
    server.run()


if __name__ == "__main__":
    _serve(int(sys.argv[1]))
