"""Reads the scans of one task of any kind: the function that worker processes call."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipeline.errors import ScanRefusedError
from pipeline.manifest.kinds.table import KINDS, named
from pipeline.sources.base import Scan, ScanTask
from pipeline.sources.stores import open_store


def read_scans(task: ScanTask, fetched: Callable[[], None] = lambda: None) -> Iterator[Scan]:
    """Yield the scans of a task: one, or one a frame where the manifest says so.

    Args:
        task: what to read.
        fetched: called once the bytes are there and decoding begins.

    Raises:
        ScanRefusedError: the scan cannot be used; the problem is a short reason without path or header value.
        DataError: the store that holds it is gone.
    """
    if task.refusal:
        raise ScanRefusedError(task.refusal)
    kind = KINDS[task.rule.kind]
    data = b""
    if kind.has_files:
        data = open_store(task.rule).read(task.name)
        fetched()
    yield from named(kind.reads)(task, data)


def is_remote(task: ScanTask) -> bool:
    """Tell whether the task's bytes come from a server, for which it may have to wait."""
    return task.rule.store == "dicomweb"


def read_scan(task: ScanTask) -> Scan:
    """Return the first scan of a task; raises as `read_scans` does."""
    return next(read_scans(task))


def read_patient(task: ScanTask) -> str | None:
    """Return the patient id that stands in the file itself, or None: few kinds of file have one.

    Raises:
        ScanRefusedError: the file cannot be read.
    """
    kind = KINDS[task.rule.kind]
    if not kind.patient or not task.rule.patient_tag:
        return None
    found: str | None = named(kind.patient)(task, open_store(task.rule).read(task.name))
    return found
