"""Runs chunks of scans in this process or in a pool, resumable, in a bounded window of memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

from pipeline.distributed.cpu_threads import usable_cores
from pipeline.errors import DataError
from pipeline.ingest.reading.journal import Journal, Reading, forget, readings
from pipeline.ingest.reading.parts import finished_parts
from pipeline.ingest.reading.processes import STALLED, end_stalled, examine, process_pool, work_in_process
from pipeline.ingest.reading.worker import WorkOrder, work
from pipeline.progress import track
from pipeline.sources.base import ScanTask
from pipeline.storage import make_private_directory

logger = logging.getLogger(__name__)

POOL_PAYS_SECONDS = 3.0
"""Work left (measured on the first scans) below which starting worker processes costs more than it saves."""

PROBE_SECONDS = 0.3
"""How long scans are read in this process before that is judged."""

_WINDOW = 2
_FEWEST_CHUNKS, _SHORTEST_CHUNK = 16, 4
_MOST_BREAKS = 3
"""Times in a row that a pool may break without a scan to blame; then memory is short, or worse."""

WATCH_SECONDS = 1.0


@dataclass
class _Work:
    """The chunks of an ingest, and what is known of them.

    Attributes:
        order: what is the same for all chunks.
        scans: all scans.
        length: scans a chunk.
        scan_seconds: longest time that one file may take.
        todo: numbers of the chunks that are not finished.
        bad: chunk -> position -> reason, of scans that killed or stalled their reader.
    """

    order: WorkOrder
    scans: list[ScanTask]
    length: int
    scan_seconds: float
    todo: list[int] = field(default_factory=list)
    bad: dict[int, dict[int, str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(range(0, len(self.scans), self.length))

    def tasks(self, number: int) -> list[ScanTask]:
        return self.scans[number * self.length : (number + 1) * self.length]


def chunk_length(num_scans: int, chunk_scans: int) -> int:
    """Return the scans of a chunk: the setting, or fewer for a short list so that all workers get some."""
    return min(chunk_scans, max(_SHORTEST_CHUNK, -(-num_scans // _FEWEST_CHUNKS)))


def run_chunks(
    order: WorkOrder, tasks: list[ScanTask], *, length: int, workers: int, scan_seconds: float
) -> int:
    """Store the part of every chunk; return the number of parts.

    Finished parts of a killed run are kept. The first scans are timed in this process: only where enough
    work is left does a pool start. What a part holds does not depend on who made it. A file that kills its
    reader (a decoder's own crash) or stalls it is found by the readers' journals, tried once more alone, and
    refused by name; all others go on.

    Args:
        order: what is the same for all chunks.
        tasks: all scans.
        length: scans a chunk.
        workers: processes; 0 takes one for each core this process may use.
        scan_seconds: longest time that one file may take.

    Raises:
        DataError: worker processes die without a scan to blame (out of memory).
    """
    make_private_directory(order.folder)
    plan = _Work(order, tasks, length, scan_seconds)
    sizes = [len(plan.tasks(number)) for number in range(len(plan))]
    done = finished_parts(order.folder, sizes)
    plan.todo = [number for number in range(len(plan)) if number not in done]
    _blame(plan)
    finished = sum(sizes[n] for n in done)
    if finished:
        logger.info("ingest goes on: %d of %d scans were finished before", finished, len(tasks))
    with track("ingest", len(tasks), done=finished, unit="scans") as progress:
        refused = 0
        for kept, bad in _results(plan, workers or usable_cores()):
            refused += bad
            progress.update(kept + bad, refused=refused)
    forget(order.folder)
    return len(plan)


def _results(plan: _Work, workers: int) -> Iterator[tuple[int, int]]:
    """Yield (read, refused) of every chunk as it finishes."""
    journal = Journal(plan.order.folder)
    began, finished = time.perf_counter(), 0

    def pool_pays(done: int) -> bool:
        spent = time.perf_counter() - began
        left = len(plan.todo) * plan.length - done
        a_scan = spent / (finished + done)
        return workers > 1 and spent > PROBE_SECONDS and a_scan * left > POOL_PAYS_SECONDS

    try:
        while plan.todo:
            number = plan.todo[0]
            counts = work(
                plan.order,
                number,
                plan.tasks(number),
                journal=journal,
                known_bad=plan.bad.get(number, {}),
                give_up=pool_pays,
            )
            if counts is None:
                break
            plan.todo.remove(number)
            finished += sum(counts)
            yield counts
    finally:
        journal.close()
    if plan.todo:
        yield from _through_breaks(plan, workers)


def _through_breaks(plan: _Work, workers: int) -> Iterator[tuple[int, int]]:
    """Yield the results of pools, one after another until all is done."""
    breaks = 0
    while plan.todo:
        before, bad = len(plan.todo), sum(map(len, plan.bad.values()))
        try:
            yield from _pooled(plan, min(workers, len(plan.todo)))
        except BrokenProcessPool as error:
            blamed = sum(map(len, plan.bad.values())) > bad or _blame(plan)
            breaks = 0 if blamed or len(plan.todo) < before else breaks + 1
            workers = workers if blamed else max(1, workers // 2)
            if breaks >= _MOST_BREAKS:
                raise DataError(
                    "worker processes die, and no scan is to blame: the memory may be too small",
                    field="ingest",
                    remedy="Run again with --set ingest.workers=1, which goes on with what was finished.",
                ) from error


def _pooled(plan: _Work, workers: int) -> Iterator[tuple[int, int]]:
    forget(plan.order.folder)
    waiting = iter(list(plan.todo))
    with process_pool(workers) as pool:
        running: dict[Future[tuple[int, int]], int] = {}
        while True:
            for number in waiting:
                known = plan.bad.get(number, {})
                task = pool.submit(work_in_process, plan.order, number, plan.tasks(number), known)
                running[task] = number
                if len(running) >= _WINDOW * workers:
                    break
            if not running:
                return
            ended, _ = wait(running, timeout=WATCH_SECONDS, return_when=FIRST_COMPLETED)
            if not ended:
                for stalled in end_stalled(plan.order.folder, plan.scan_seconds):
                    _refuse(plan, stalled, STALLED)
            for future in ended:
                counts = future.result()
                plan.todo.remove(running.pop(future))
                yield counts


def _blame(plan: _Work) -> bool:
    """Note the scans that killed their readers, by the journals left behind; tell whether there are any."""
    found = False
    for left in readings(plan.order.folder):
        if left.chunk not in plan.todo or left.position in plan.bad.get(left.chunk, {}):
            continue
        tasks = plan.tasks(left.chunk)
        if left.position >= len(tasks):
            continue
        # Those that merely stood beside the culprit are read without harm.
        reason = examine(tasks[left.position], plan.scan_seconds)
        if reason:
            _refuse(plan, left, reason)
            found = True
    forget(plan.order.folder)
    return found


def _refuse(plan: _Work, what: Reading, reason: str) -> None:
    logger.warning("a scan %s; it is refused", reason)
    plan.bad.setdefault(what.chunk, {})[what.position] = reason
