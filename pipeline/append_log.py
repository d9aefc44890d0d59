"""Append-only logs next to the output of a stage, which are kept when the output is replaced."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.storage import PRIVATE_FILE_MODE, canonical_json, storage_errors

READS_NAME = "test_reads.jsonl"
"""One line per read of the test split by an evaluation."""

EXTERNAL_READS_NAME = "external_reads.jsonl"
"""One line per read of the cohort of another site by an evaluation."""

RELEASES_NAME = "releases.jsonl"
"""One line per release."""


def log_beside(out: Path, name: str) -> Path:
    """Return the path of the log of a stage's output: in the parent folder of the output.

    An output that cannot be replaced, because it is a mount point or its parent folder is not writable,
    contains its log.
    """
    out = out.resolve()
    stays = os.path.ismount(out) or not os.access(out.parent, os.W_OK)
    return (out if stays and out.is_dir() else out.parent) / name


def append_entry(log: Path, entry: Mapping[str, Any]) -> None:
    """Append one entry with the time (UTC), under a lock, and wait until it is on the disk.

    Args:
        log: path of the log, created with mode 0600 if it does not exist.
        entry: name -> JSON value.

    Raises:
        StorageError: the file cannot be written.
    """
    from filelock import lock_descriptor, unlock_descriptor

    with storage_errors(log):
        handle = os.open(log, os.O_RDWR | os.O_CREAT | os.O_APPEND, PRIVATE_FILE_MODE)
        try:
            lock_descriptor(handle)
            try:
                size = os.fstat(handle).st_size
                os.lseek(handle, max(size - 1, 0), os.SEEK_SET)
                # A line that a power failure has truncated stays a separate line.
                start = b"" if os.read(handle, 1) in (b"", b"\n") else b"\n"
                now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
                line = start + (canonical_json({"time": now, **entry}) + "\n").encode()
                while line:
                    line = line[os.write(handle, line) :]
                os.fsync(handle)
            finally:
                unlock_descriptor(handle)
        finally:
            os.close(handle)


def read_entries(log: Path) -> list[dict[str, Any]]:
    """Return the entries in the order in which they were appended; none without a log.

    A truncated line is left out: its writer never continued, so what it would have recorded did not happen.
    """
    if not log.is_file():
        return []
    with storage_errors(log):
        lines = log.read_bytes().split(b"\n")
    found = []
    for line in lines:
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            found.append(entry)
    return found
