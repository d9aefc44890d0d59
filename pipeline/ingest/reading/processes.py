"""Worker processes: started afresh, ended with their parent, and ended when a file stalls them."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from pipeline.ingest.reading.journal import Journal, Reading, readings
from pipeline.ingest.reading.worker import WorkOrder, work
from pipeline.sources.base import ScanTask
from pipeline.sources.reading import is_remote, read_scans
from pipeline.storage import ON_WINDOWS

CRASHED = "crashed its decoder"
STALLED = "took too long to read"

_START_SECONDS = 30.0
"""What a fresh process may take to start, beside the time for the scan."""

_MOST_ON_WINDOWS = 61
"""Worker processes that Python can wait for at once there."""

_FAULT_ON_WINDOWS = 0xC0000000
"""From here on an exit code names the exception that ended the process."""

_ABORTED_ON_WINDOWS = 3

_journal: Journal | None = None


@contextlib.contextmanager
def process_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Start worker processes, and end them with the block."""
    # A fresh interpreter each: forking a process that has torch's threads can dead-lock.
    context = multiprocessing.get_context("spawn")
    workers = min(workers, _MOST_ON_WINDOWS) if ON_WINDOWS else workers
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def work_in_process(
    order: WorkOrder, number: int, tasks: list[ScanTask], known_bad: Mapping[int, str]
) -> tuple[int, int]:
    """Do a chunk in a worker process, which keeps one journal for all its chunks."""
    global _journal  # noqa: PLW0603 - a worker process has no other place that lasts
    if _journal is None:
        _journal = Journal(order.folder)
    counts = work(order, number, tasks, journal=_journal, known_bad=known_bad)
    assert counts is not None  # only the probe gives up
    return counts


def end_stalled(folder: Path, seconds: float) -> list[Reading]:
    """Kill the workers that have been reading one file for longer than allowed; return what they read."""
    stalled = [now for now in readings(folder) if now.seconds > seconds and now.pid != os.getpid()]
    # Windows has no SIGKILL, and ends a process at once for SIGTERM.
    kill = getattr(signal, "SIGKILL", signal.SIGTERM)
    for now in stalled:
        # It may have ended by itself, which each system says in its own way.
        with contextlib.suppress(OSError):
            os.kill(now.pid, kill)
    return stalled


def examine(task: ScanTask, seconds: float) -> str:
    """Read one suspected file in a process of its own; return the reason to refuse it, or an empty text."""
    context = multiprocessing.get_context("spawn")
    fetched = context.Event()
    process = context.Process(target=_read_to_the_end, args=(task, fetched.set), daemon=True)
    process.start()
    # The time of waiting for a server does not count: an outage must not refuse the scan.
    while is_remote(task) and process.is_alive() and not fetched.wait(1.0):
        pass
    process.join(_START_SECONDS + seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return STALLED
    return CRASHED if has_crashed(process.exitcode or 0) else ""


def has_crashed(exit_code: int) -> bool:
    """Return whether a process was ended by a fault, by its exit code as `multiprocessing` tells it."""
    if ON_WINDOWS and (exit_code >= _FAULT_ON_WINDOWS or exit_code == _ABORTED_ON_WINDOWS):
        return True
    return exit_code < 0  # the signal that ended it


def _read_to_the_end(task: ScanTask, fetched: Callable[[], None]) -> None:
    # Whatever Python can raise will be met again, and told, by the worker that reads the scan.
    with contextlib.suppress(Exception):
        for _ in read_scans(task, fetched):
            pass


def _end_with_parent() -> None:
    """Let a worker end when its parent is killed; it would wait for work for ever otherwise."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
