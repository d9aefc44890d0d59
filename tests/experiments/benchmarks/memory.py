"""Peak memory of ingest at 2,000 and at 20,000 phantom scans, and what a second, unchanged run costs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline.phantom import PhantomSettings, write_phantom_cohort
from tests.experiments.benchmarks.ingest import MANIFEST
from tests.experiments.benchmarks.rows import Row

SIZES = (2_000, 20_000)
AGAIN_ROUNDS = 3

CHILD = """
import json, resource, sys, time
from pathlib import Path
from pipeline.ingest import run_ingest
from pipeline.ingest.settings import IngestSettings
from pipeline.manifest import load_manifest
from tests.experiments.benchmarks.machine import peak_bytes
settings = IngestSettings(workers=int(sys.argv[3]))
started = time.perf_counter()
reference = run_ingest(load_manifest(Path(sys.argv[1])), Path(sys.argv[2]), settings)
seconds = time.perf_counter() - started
peak = [peak_bytes() / 2**20, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024]
print(json.dumps(
    {"scans": reference.counts["scans"], "own": peak[0], "worker": peak[1], "seconds": seconds}
))
"""


def measure() -> list[Row]:
    """Ingest both sizes in one process each and compare their peaks; then the larger again, unchanged.

    Worker processes start only where enough work is left, which 2,000 small scans are not: with workers
    allowed, one process would be held against three.
    """
    with tempfile.TemporaryDirectory() as name:
        manifests = [_scans(Path(name) / str(size), size) for size in SIZES]
        os.sync()
        small, large = (
            _ingest(manifest, workers=1, at_least=0.95 * size)
            for manifest, size in zip(manifests, SIZES, strict=True)
        )
        again = [_ingest(manifests[1], workers=1, at_least=0.95 * SIZES[1]) for _ in range(AGAIN_ROUNDS)]
        two = _ingest(manifests[1], workers=2, at_least=0.95 * SIZES[1])
    memory = (
        f"{small['own']:.0f} MiB at {SIZES[0]:,} scans, {large['own']:.0f} MiB at {SIZES[1]:,}; "
        f"with two workers {two['own']:.0f} MiB + 2 x {two['worker']:.0f} MiB"
    )
    times = f"{SIZES[1]:,} files: {large['seconds']:.1f} s, then {again[-1]['seconds']:.2f} s"
    shares = tuple(run["seconds"] / large["seconds"] for run in again)
    return [
        Row(
            "ingest peak memory, 20,000 over 2,000 scans", (large["own"] / small["own"],), 1.1, False, memory
        ),
        Row("ingest, unchanged second run over the first", shares, 0.05, False, times),
    ]


def _scans(folder: Path, size: int) -> Path:
    settings = PhantomSettings(num_patients=size, images_per_patient=(1, 1), image_size=64, nifti_share=0.0)
    write_phantom_cohort(folder / "scans", settings)
    manifest = folder / "bench.yaml"
    manifest.write_text(MANIFEST.format(folder=folder / "scans"))
    return manifest


def _ingest(manifest: Path, *, workers: int, at_least: float) -> dict[str, Any]:
    """Ingest in a process of its own; return its seconds, peak memory in MiB and its largest worker's."""
    out = manifest.parent / f"cohort-{workers}"
    command = [sys.executable, "-c", CHILD, str(manifest), str(out), str(workers)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    body: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if body["scans"] < at_least:
        raise RuntimeError(f"only {body['scans']} scans were read")
    return body
