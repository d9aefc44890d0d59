"""Worker processes: they start a new interpreter, end with their parent, and are killed if they stall."""

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
"""Time that a new process may take to start, in addition to the time for the scan."""

_MAX_WORKERS_ON_WINDOWS = 61
"""Largest number of worker processes that `concurrent.futures` supports on Windows."""

_FAULT_ON_WINDOWS = 0xC0000000
"""Smallest exit code on Windows that stands for an exception that ended the process."""

_ABORTED_ON_WINDOWS = 3

_journal: Journal | None = None


@contextlib.contextmanager
def process_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Yield a pool of worker processes, which ends with the block."""
    # Forking a process that has torch's threads can deadlock.
    context = multiprocessing.get_context("spawn")
    workers = min(workers, _MAX_WORKERS_ON_WINDOWS) if ON_WINDOWS else workers
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def work_in_process(
    order: WorkOrder, number: int, tasks: list[ScanTask], known_bad: Mapping[int, str]
) -> tuple[int, int]:
    """Process a chunk in a worker process, which keeps one journal for all its chunks."""
    global _journal  # noqa: PLW0603 - only module state lasts from chunk to chunk
    if _journal is None:
        _journal = Journal(order.folder)
    counts = work(order, number, tasks, journal=_journal, known_bad=known_bad)
    assert counts is not None  # only the probe gives up
    return counts


def kill_stalled(folder: Path, seconds: float) -> list[Reading]:
    """Kill the workers that have read one file for more than `seconds`; return what they were reading."""
    stalled = [now for now in readings(folder) if now.seconds > seconds and now.pid != os.getpid()]
    # Windows has no SIGKILL; there, SIGTERM ends a process at once.
    kill = getattr(signal, "SIGKILL", signal.SIGTERM)
    for now in stalled:
        # The process may have ended; the class of the error then depends on the system.
        with contextlib.suppress(OSError):
            os.kill(now.pid, kill)
    return stalled


def examine(task: ScanTask, seconds: float) -> str:
    """Read one suspect file in a separate process; return the reason to refuse it, or an empty string."""
    context = multiprocessing.get_context("spawn")
    fetched = context.Event()
    process = context.Process(target=_read_to_the_end, args=(task, fetched.set), daemon=True)
    process.start()
    # Waiting for a server does not count as a stall: an outage must not refuse the scan.
    while is_remote(task) and process.is_alive() and not fetched.wait(1.0):
        pass
    process.join(_START_SECONDS + seconds)
    if process.is_alive():
        process.kill()
        process.join()
        return STALLED
    return CRASHED if has_crashed(process.exitcode or 0) else ""


def has_crashed(exit_code: int) -> bool:
    """Return whether an exit code, as `multiprocessing` gives it, means that a fault ended the process."""
    if ON_WINDOWS and (exit_code >= _FAULT_ON_WINDOWS or exit_code == _ABORTED_ON_WINDOWS):
        return True
    return exit_code < 0  # minus the number of the signal that ended it


def _read_to_the_end(task: ScanTask, fetched: Callable[[], None]) -> None:
    # Only crashes and stalls matter here; the worker that reads the scan handles exceptions.
    with contextlib.suppress(Exception):
        for _ in read_scans(task, fetched):
            pass


def _end_with_parent() -> None:
    """End this worker when its parent is killed; otherwise it would wait for work forever."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
