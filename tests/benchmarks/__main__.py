"""Run every benchmark, or those named: `python -m tests.benchmarks [training sampling ingest memory ...]`."""

from __future__ import annotations

import importlib
import os
import platform
import sys

NAMES = ("training", "sampling", "ingest", "memory", "dry_run", "start")


def main() -> int:
    """Print one line a ratio; the exit code is 1 when a goal is not met."""
    os.environ.setdefault("PHOSPHOR_KEY", "5e" * 32)
    chosen = sys.argv[1:] or NAMES
    unknown = set(chosen) - set(NAMES)
    if unknown:
        sys.exit(f"unknown benchmark {sorted(unknown)}; known are {NAMES}")
    load = os.getloadavg()[0]
    print(f"machine: {platform.machine()}, {os.cpu_count()} cores, load {load:.2f} at the start", flush=True)
    if load > 0.5:
        print("the machine is not idle: these figures are void", flush=True)
    all_met = True
    for name in chosen:
        for row in importlib.import_module(f"tests.benchmarks.{name}").measure():
            print(row.text(), flush=True)
            all_met &= row.met
    return 0 if all_met else 1


if __name__ == "__main__":
    sys.exit(main())
