"""Memory that is free for a computation: of a GPU, or of the machine within the limit of a container."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

MEMINFO, GROUPS, MOUNT = Path("/proc/meminfo"), Path("/proc/self/cgroup"), Path("/sys/fs/cgroup")


def free_memory(device: torch.device) -> int | None:
    """Return the bytes that a computation on a device can still take; None if the system does not say."""
    import torch

    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        # Torch keeps freed memory for itself, and uses it first.
        return int(free) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    known = [room for room in (_of_machine(), *_of_containers()) if room is not None]
    return min(known) if device.type == "cpu" and known else None


def _of_machine() -> int | None:
    for line in _lines(MEMINFO):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) * 1024
    return None


def _of_containers() -> list[int]:
    """Return the room below the memory limits of this process's control groups, versions 1 and 2."""
    rooms = []
    for line in _lines(GROUPS):
        number, kinds, path = line.split(":", 2)
        if number == "0":
            base, limit, usage = MOUNT, "memory.max", "memory.current"
        elif "memory" in kinds.split(","):
            base, limit, usage = MOUNT / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        # Within a container its own group is mounted as the root, and the path is that of the host.
        for folder in {base, base / path.lstrip("/")}:
            most, used = _number(folder / limit), _number(folder / usage)
            if most is not None and used is not None:
                rooms.append(max(most - used + _cached(folder / "memory.stat"), 0))
    return rooms


def _cached(path: Path) -> int:
    """Return the bytes of a group's page cache, which are given up when memory is needed."""
    for line in _lines(path):
        name, _, value = line.partition(" ")
        if name in ("inactive_file", "total_inactive_file"):
            return int(value)
    return 0


def _number(path: Path) -> int | None:
    """Return the number in a file; None if there is no such file, or it sets no limit (`max`)."""
    lines = _lines(path)
    return int(lines[0]) if lines and lines[0].isdigit() else None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return []
