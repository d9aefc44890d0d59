"""Records which scan each process is reading, to identify scans that kill or stall their reader."""

from __future__ import annotations

import os
import struct
import time
from dataclasses import dataclass
from pathlib import Path

from pipeline.storage import PRIVATE_FILE_MODE

_FORMAT = struct.Struct("<qqd")
_IDLE = -1
_PREFIX = "now-"


@dataclass(frozen=True)
class Reading:
    """A scan that a process was reading when its journal was inspected.

    Attributes:
        pid: process id.
        chunk, position: number of the chunk, and position of the scan in it.
        seconds: time since the process began to read the scan.
    """

    pid: int
    chunk: int
    position: int
    seconds: float


class Journal:
    """A file in which a process records the scan that it is reading; a write takes about a microsecond.

    Args:
        folder: folder of the parts.
    """

    def __init__(self, folder: Path) -> None:
        path = folder / f"{_PREFIX}{os.getpid()}"
        # The file is unbuffered, so that an entry outlives a crash of the process.
        self._stream = os.fdopen(os.open(path, os.O_CREAT | os.O_WRONLY, PRIVATE_FILE_MODE), "wb", 0)

    def reading(self, chunk: int, position: int) -> None:
        """Record that the process starts to read a scan."""
        # The monotonic clock is the same for all processes of a machine.
        self._write(chunk, position, time.monotonic())

    def idle(self) -> None:
        """Record that the process reads no scan."""
        self._write(_IDLE, _IDLE, 0.0)

    def close(self) -> None:
        """Record that the process reads no scan, and close the file."""
        self.idle()
        self._stream.close()

    def _write(self, chunk: int, position: int, started: float) -> None:
        self._stream.seek(0)
        self._stream.write(_FORMAT.pack(chunk, position, started))


def readings(folder: Path) -> list[Reading]:
    """Return the scan that each process with a journal is reading, or was reading when it died."""
    found = []
    for path in sorted(folder.glob(f"{_PREFIX}*")):
        data = path.read_bytes()
        if len(data) != _FORMAT.size:
            continue
        chunk, position, started = _FORMAT.unpack(data)
        if chunk != _IDLE:
            pid = int(path.name.removeprefix(_PREFIX))
            found.append(Reading(pid, chunk, position, time.monotonic() - started))
    return found


def remove_journals(folder: Path) -> None:
    """Remove all journals; the processes that keep them must have ended."""
    for path in folder.glob(f"{_PREFIX}*"):
        path.unlink(missing_ok=True)
