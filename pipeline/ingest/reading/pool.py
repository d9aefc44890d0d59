"""Runs chunks of scans in this process or in a pool, in bounded memory; an interrupted run can resume."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field

from pipeline.distributed.cpu_threads import usable_cores
from pipeline.errors import DataError
from pipeline.ingest.reading.journal import Journal, Reading, readings, remove_journals
from pipeline.ingest.reading.parts import finished_parts
from pipeline.ingest.reading.processes import STALLED, examine, kill_stalled, process_pool, work_in_process
from pipeline.ingest.reading.worker import WorkOrder, work
from pipeline.progress import track
from pipeline.sources.base import ScanTask
from pipeline.storage import make_private_directory

logger = logging.getLogger(__name__)

POOL_PAYS_SECONDS = 3.0
"""Remaining seconds of work, estimated from the first scans, below which a pool costs more than it saves."""

PROBE_SECONDS = 0.3
"""Seconds of reading in this process before a pool may start."""

WATCH_SECONDS = 1.0
"""Longest wait in seconds for a chunk before stalled workers are searched for."""

_WINDOW = 2
_MIN_CHUNKS, _MIN_CHUNK_SCANS = 16, 4
_MAX_BREAKS = 3
"""Breaks of the pool in a row, without a scan that caused them, after which the ingest fails."""


@dataclass
class _Plan:
    """The chunks of an ingest and their state.

    Attributes:
        order: settings that all chunks share.
        scans: all scans.
        length: scans per chunk.
        scan_seconds: longest time in seconds that one file may take.
        todo: numbers of the unfinished chunks.
        bad: chunk -> position -> reason, for scans that killed or stalled their reader.
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
    """Return the scans per chunk: the setting, or fewer if the list would give too few chunks for a pool."""
    return min(chunk_scans, max(_MIN_CHUNK_SCANS, -(-num_scans // _MIN_CHUNKS)))


def run_chunks(
    order: WorkOrder, tasks: list[ScanTask], *, length: int, workers: int, scan_seconds: float
) -> int:
    """Store the part of every chunk; return the number of parts.

    Finished parts of an interrupted run are kept. The first scans are timed in this process; a pool starts
    only if enough work remains. The content of a part does not depend on the process that made it. The
    journals identify files that kill or stall their reader. A file that may have killed its reader is read
    once more alone, and refused if it fails again. A file that takes longer than `scan_seconds` is refused.

    Args:
        order: settings that all chunks share.
        tasks: all scans.
        length: scans per chunk.
        workers: number of processes; 0 uses one per core that this process may use.
        scan_seconds: longest time in seconds that one file may take.

    Raises:
        DataError: worker processes die and no scan is the cause, probably because memory is short.
    """
    make_private_directory(order.folder)
    plan = _Plan(order, tasks, length, scan_seconds)
    sizes = [len(plan.tasks(number)) for number in range(len(plan))]
    done = finished_parts(order.folder, sizes)
    plan.todo = [number for number in range(len(plan)) if number not in done]
    _blame(plan)
    finished = sum(sizes[n] for n in done)
    if finished:
        logger.info("ingest resumes: %d of %d scans are finished", finished, len(tasks))
    with track("ingest", len(tasks), done=finished, unit="scans") as progress:
        refused = 0
        for kept, bad in _results(plan, workers or usable_cores()):
            refused += bad
            progress.update(kept + bad, refused=refused)
    remove_journals(order.folder)
    return len(plan)


def _results(plan: _Plan, workers: int) -> Iterator[tuple[int, int]]:
    """Yield (files read, files refused) of each chunk as it finishes."""
    journal = Journal(plan.order.folder)
    began, finished = time.perf_counter(), 0

    def pool_pays(done: int) -> bool:
        spent = time.perf_counter() - began
        left = len(plan.todo) * plan.length - done
        seconds_per_scan = spent / (finished + done)
        return workers > 1 and spent > PROBE_SECONDS and seconds_per_scan * left > POOL_PAYS_SECONDS

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
        yield from _restarted_pools(plan, workers)


def _restarted_pools(plan: _Plan, workers: int) -> Iterator[tuple[int, int]]:
    """Yield the results of one pool after another until all chunks are done."""
    breaks = 0
    while plan.todo:
        before, bad = len(plan.todo), sum(map(len, plan.bad.values()))
        try:
            yield from _pooled(plan, min(workers, len(plan.todo)))
        except BrokenProcessPool as error:
            blamed = sum(map(len, plan.bad.values())) > bad or _blame(plan)
            breaks = 0 if blamed or len(plan.todo) < before else breaks + 1
            workers = workers if blamed else max(1, workers // 2)
            if breaks >= _MAX_BREAKS:
                raise DataError(
                    f"worker processes died {breaks} times and no scan is the cause; memory may be short",
                    field="ingest",
                    remedy="Run again with --set ingest.workers=1; finished chunks are kept.",
                ) from error


def _pooled(plan: _Plan, workers: int) -> Iterator[tuple[int, int]]:
    remove_journals(plan.order.folder)
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
                for stalled in kill_stalled(plan.order.folder, plan.scan_seconds):
                    _refuse(plan, stalled, STALLED)
            for future in ended:
                counts = future.result()
                plan.todo.remove(running.pop(future))
                yield counts


def _blame(plan: _Plan) -> bool:
    """Refuse the scans that killed their readers according to the journals; return whether there are any."""
    found = False
    for left in readings(plan.order.folder):
        if left.chunk not in plan.todo or left.position in plan.bad.get(left.chunk, {}):
            continue
        tasks = plan.tasks(left.chunk)
        if left.position >= len(tasks):
            continue
        # A journal also names scans that were being read when another one broke the pool.
        reason = examine(tasks[left.position], plan.scan_seconds)
        if reason:
            _refuse(plan, left, reason)
            found = True
    remove_journals(plan.order.folder)
    return found


def _refuse(plan: _Plan, scan: Reading, reason: str) -> None:
    logger.warning("a scan %s and is refused", reason)
    plan.bad.setdefault(scan.chunk, {})[scan.position] = reason
