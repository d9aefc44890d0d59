"""What `phosphor run --dry-run` foretells against what the smoke run then takes: time, memory, disk."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.experiments.benchmarks.rows import Row

ROOT = Path(__file__).resolve().parents[3]
MANIFEST = ROOT / "data_manifests" / "phantom.yaml"
PAGE = os.sysconf("SC_PAGE_SIZE")


def tree_bytes(pid: int) -> int:
    """Return the resident memory of a process and of all its descendants, added up."""
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        parents.setdefault(int(fields[1]), []).append(int(path.parent.name))
    waiting, total = [pid], 0
    while waiting:
        current = waiting.pop()
        waiting += parents.get(current, [])
        try:
            total += int(Path(f"/proc/{current}/statm").read_text().split()[1]) * PAGE
        except (OSError, IndexError):
            continue
    return total


def command(arguments: list[str], environment: dict[str, str]) -> tuple[dict[str, Any], float, int]:
    """Run `phosphor`; return its JSON line, wall seconds and the largest resident memory of its processes."""
    started = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "flows.cli.app", *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    largest = 0
    while process.poll() is None:
        largest = max(largest, tree_bytes(process.pid))
        time.sleep(0.1)
    assert process.stdout
    out = process.stdout.read()
    if process.returncode != 0:
        raise SystemExit(f"phosphor {' '.join(arguments)} ended with code {process.returncode}")
    return json.loads(out.strip().splitlines()[-1]), time.perf_counter() - started, largest


def measure() -> list[Row]:
    """Plan, run, compare: a row a quantity; its ratio is foretold / measured or the inverse, the larger."""
    with tempfile.TemporaryDirectory(prefix="phosphor-bench-") as name:
        folder = Path(name)
        environment = {**os.environ, "PHOSPHOR_CACHE": str(folder / "cache"), "PHOSPHOR_KEY": "5e" * 32}
        arguments = ["run", str(MANIFEST), "--recipe", "smoke", "--out", str(folder / "out")]
        plan, _, _ = command([*arguments, "--dry-run"], environment)
        _, seconds, memory = command(arguments, environment)
        files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink()]
        disk = sum(path.stat().st_size for path in files)
        timings = json.loads((folder / "out" / "timings.json").read_text())
    stages = ", ".join(
        f"{step['stage']} {step['seconds']:.1f}/{timings[step['stage']]:.1f}"
        for step in plan["steps"]
        if step["stage"] in timings
    )
    return [
        _row("time", "s", plan["seconds"], seconds, f"; by stage {stages}"),
        _row("memory", "MiB", plan["memory_bytes"] / 2**20, memory / 2**20),
        _row("disk", "MiB", plan["disk_bytes"] / 2**20, disk / 2**20),
    ]


def _row(what: str, unit: str, foretold: float, measured: float, more: str = "") -> Row:
    ratio = max(foretold / measured, measured / foretold)
    detail = f"foretold {foretold:.1f} {unit}, measured {measured:.1f} {unit}{more}"
    return Row(f"dry run of smoke, {what} foretold and measured", (ratio,), 2.0, False, detail)
