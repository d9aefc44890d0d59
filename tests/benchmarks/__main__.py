"""Run every benchmark, or those named: `python -m tests.benchmarks [training sampling ingest memory ...]`."""

from __future__ import annotations

import importlib
import os
import platform
import sys
import time
from pathlib import Path

NAMES = ("training", "sampling", "ingest", "memory", "dry_run", "start")
LARGEST_BUSY_SHARE = 0.05
IDLE = 3


def main() -> int:
    """Print one line a ratio; the exit code is 1 when a goal is not met."""
    os.environ.setdefault("PHOSPHOR_KEY", "5e" * 32)
    chosen = sys.argv[1:] or NAMES
    unknown = set(chosen) - set(NAMES)
    if unknown:
        sys.exit(f"unknown benchmark {sorted(unknown)}; known are {NAMES}")
    busy = _busy_share()
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, {busy:.0%} busy at the start", flush=True)
    if busy > LARGEST_BUSY_SHARE:
        print("the machine is not idle: these figures are void", flush=True)
    all_met = True
    for name in chosen:
        for row in importlib.import_module(f"tests.benchmarks.{name}").measure():
            print(row.text(), flush=True)
            all_met &= row.met
    return 0 if all_met else 1


def _busy_share(seconds: float = 3.0) -> float:
    """Return the share of all cores' time that others used during so many seconds (Linux; else 0).

    The load average would still tell of what ended a minute ago.
    """
    first = _core_seconds()
    time.sleep(seconds)
    last = _core_seconds()
    total = sum(last) - sum(first)
    return 1.0 - (last[IDLE] - first[IDLE]) / total if total else 0.0


def _core_seconds() -> list[int]:
    """Return the first line of /proc/stat: clock ticks of all cores by kind, idle ones at `IDLE`."""
    path = Path("/proc/stat")
    return (
        [int(ticks) for ticks in path.read_text().split("\n", 1)[0].split()[1:]]
        if path.is_file()
        else [0] * 4
    )


if __name__ == "__main__":
    sys.exit(main())
