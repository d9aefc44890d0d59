"""Which scan each process is reading right now, so that one that kills or stalls its reader can be named."""

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
    """What a process was reading when its journal was looked at.

    Attributes:
        pid: the process.
        chunk, position: the scan, as position within its chunk.
        seconds: for how long.
    """

    pid: int
    chunk: int
    position: int
    seconds: float


class Journal:
    """A file of a process in which it overwrites what it is reading; a write costs about a microsecond.

    Args:
        folder: where the parts lie.
    """

    def __init__(self, folder: Path) -> None:
        handle = os.open(_path(folder, os.getpid()), os.O_CREAT | os.O_WRONLY, PRIVATE_FILE_MODE)
        self._stream = os.fdopen(handle, "wb", buffering=0)

    def reading(self, chunk: int, position: int) -> None:
        """Note that a scan is being read from now on."""
        # The monotonic clock is the same for all processes of a machine.
        self._write(chunk, position, time.monotonic())

    def idle(self) -> None:
        """Note that nothing is being read."""
        self._write(_IDLE, _IDLE, 0.0)

    def close(self) -> None:
        """Note the end and let go of the file."""
        self.idle()
        self._stream.close()

    def _write(self, chunk: int, position: int, started: float) -> None:
        # Without a buffer, so that it is there if the process dies at the next scan.
        self._stream.seek(0)
        self._stream.write(_FORMAT.pack(chunk, position, started))


def readings(folder: Path) -> list[Reading]:
    """Return what every process that keeps a journal in the folder is (or was, when it died) reading."""
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


def forget(folder: Path) -> None:
    """Remove all journals; the processes that keep them must have ended."""
    for path in folder.glob(f"{_PREFIX}*"):
        path.unlink(missing_ok=True)


def _path(folder: Path, pid: int) -> Path:
    return folder / f"{_PREFIX}{pid}"
