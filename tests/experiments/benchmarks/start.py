"""How long `phosphor --help` takes, against the bare start of the interpreter."""

from __future__ import annotations

import subprocess
import sys
import time

from tests.experiments.benchmarks.rows import Row

ROUNDS = 5


def measure() -> list[Row]:
    """Seconds of `phosphor --help`; the goal is half a second, so the ratio is seconds over 0.5."""
    seconds = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        subprocess.run(
            [sys.executable, "-c", "from flows.cli.app import main; main()", "--help"],
            check=True,
            capture_output=True,
        )
        seconds.append(time.perf_counter() - started)
    detail = f"{min(seconds):.2f}-{max(seconds):.2f} s"
    return [
        Row("phosphor --help, share of half a second", tuple(s / 0.5 for s in seconds), 1.0, False, detail)
    ]
