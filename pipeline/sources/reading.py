"""Reading of the scans of one task of any kind, for worker processes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from pipeline.errors import ScanRefusedError
from pipeline.manifest.kinds.table import KINDS, named
from pipeline.sources.base import Scan, ScanTask
from pipeline.sources.stores import open_store


def read_scans(task: ScanTask, fetched: Callable[[], None] = lambda: None) -> Iterator[Scan]:
    """Yield the scans of a task: one, or one per frame if the manifest sets `frames: each`.

    Args:
        task: the task.
        fetched: callback after the file's bytes are read, before decoding.

    Raises:
        ScanRefusedError: the scan cannot be used; the reason contains no path and no header value.
        DataError: the store of the scan no longer exists.
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
    """Return whether the task's bytes come from a server, so that reading may wait for it."""
    return task.rule.store == "dicomweb"


def read_scan(task: ScanTask) -> Scan:
    """Return the first scan of a task; see `read_scans`."""
    return next(read_scans(task))


def read_patient(task: ScanTask) -> str | None:
    """Return the patient id in the file, or None if files of this kind have none.

    Raises:
        ScanRefusedError: the file cannot be read.
    """
    kind = KINDS[task.rule.kind]
    if not kind.patient or not task.rule.patient_tag:
        return None
    found: str | None = named(kind.patient)(task, open_store(task.rule).read(task.name))
    return found
