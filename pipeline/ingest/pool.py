"""Runs chunks of scans in this process or in a pool, resumable, in a bounded window of memory."""

from __future__ import annotations

import logging
import multiprocessing
import os
import threading
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass

from pipeline.errors import DataError
from pipeline.ingest.parts import finished_parts
from pipeline.ingest.worker import WorkOrder, work
from pipeline.progress import track
from pipeline.sources.base import ScanTask

logger = logging.getLogger(__name__)

POOL_PAYS_SECONDS = 3.0
"""Work left (measured on the first chunks) below which starting worker processes costs more than it saves."""

_WINDOW = 2


@dataclass(frozen=True)
class _Chunks:
    """All scans, cut into chunks of equal length."""

    scans: list[ScanTask]
    length: int

    def __len__(self) -> int:
        return len(range(0, len(self.scans), self.length))

    def tasks(self, number: int) -> list[ScanTask]:
        return self.scans[number * self.length : (number + 1) * self.length]


def run_chunks(order: WorkOrder, tasks: list[ScanTask], chunk_scans: int, workers: int) -> int:
    """Store the part of every chunk; return the number of parts.

    Finished parts of a killed run are kept. The first chunks are timed in this process: only where enough
    work is left does a pool start. What a part holds does not depend on who made it.

    Args:
        order: what is the same for all chunks.
        tasks: all scans.
        chunk_scans: scans a chunk.
        workers: processes; 0 takes one for each core this process may use.

    Raises:
        DataError: a worker process died (out of memory, or a decoder crashed on a broken file).
    """
    chunks = _Chunks(tasks, chunk_scans)
    sizes = [len(chunks.tasks(number)) for number in range(len(chunks))]
    done = finished_parts(order.folder, sizes)
    if done:
        logger.info(
            "ingest goes on: %d of %d scans were finished before", sum(sizes[n] for n in done), len(tasks)
        )
    todo = [number for number in range(len(chunks)) if number not in done]
    count = workers or _cores()
    with track("ingest", len(tasks), done=sum(sizes[n] for n in done), unit="scans") as progress:
        refused = 0
        for size, bad in _results(order, chunks, todo, count):
            refused += bad
            progress.update(size, refused=refused)
    return len(chunks)


def _results(order: WorkOrder, chunks: _Chunks, todo: list[int], workers: int) -> Iterator[tuple[int, int]]:
    """Yield (scans, refused) of every chunk as it finishes."""
    waiting = iter(todo)
    left = len(todo)
    while left:
        number = next(waiting)
        began = time.perf_counter()
        kept, bad = work(order, number, chunks.tasks(number))
        seconds = time.perf_counter() - began
        left -= 1
        yield kept + bad, bad
        if workers > 1 and left > 1 and seconds * left > POOL_PAYS_SECONDS:
            break
    if left:
        yield from _pooled(order, chunks, waiting, min(workers, left))


def _pooled(
    order: WorkOrder,
    chunks: _Chunks,
    waiting: Iterator[int],
    workers: int,
) -> Iterator[tuple[int, int]]:
    # A fresh interpreter each: forking a process that has torch's threads can dead-lock.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent) as pool:
        running: set[Future[tuple[int, int]]] = set()
        try:
            for number in waiting:
                running.add(pool.submit(work, order, number, chunks.tasks(number)))
                if len(running) >= _WINDOW * workers:
                    finished, running = wait(running, return_when=FIRST_COMPLETED)
                    yield from (_counts(future) for future in finished)
            while running:
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (_counts(future) for future in finished)
        except BrokenProcessPool as error:
            raise DataError(
                "a worker process died: not enough memory, or a decoder crashed on a broken file",
                field="ingest",
                remedy="Run again with --set ingest.workers=1, which goes on with what was finished.",
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _cores() -> int:
    """Cores this process may use; not every system tells."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _counts(future: Future[tuple[int, int]]) -> tuple[int, int]:
    kept, bad = future.result()
    return kept + bad, bad


def _end_with_parent() -> None:
    """Let a worker end when its parent is killed; it would wait for work for ever otherwise."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
