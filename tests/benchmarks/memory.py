"""Peak memory of ingest at 2,000 and at 20,000 phantom scans."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

from pipeline.sources.phantom import PhantomSettings, write_phantom_cohort
from tests.benchmarks.ingest import MANIFEST
from tests.benchmarks.rows import Row

SIZES = (2_000, 20_000)

CHILD = """
import json, resource, sys
from pathlib import Path
from pipeline.ingest import run_ingest
from pipeline.ingest.settings import IngestSettings
from pipeline.manifest import load_manifest
settings = IngestSettings(workers=int(sys.argv[3]))
reference = run_ingest(load_manifest(Path(sys.argv[1])), Path(sys.argv[2]), settings)
peak = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({"scans": reference.counts["scans"], "own": peak[0], "worker": peak[1]}))
"""


def measure() -> list[Row]:
    """Ingest both sizes in one process each and compare their peaks; then the larger with two workers.

    Worker processes start only where enough work is left, which 2,000 small scans are not: with workers
    allowed, one process would be held against three.
    """
    with tempfile.TemporaryDirectory() as name:
        manifests = [_scans(Path(name) / str(size), size) for size in SIZES]
        small, large = (
            _peaks(manifest, workers=1, at_least=0.95 * size)[0]
            for manifest, size in zip(manifests, SIZES, strict=True)
        )
        own, worker = _peaks(manifests[1], workers=2, at_least=0.95 * SIZES[1])
    detail = (
        f"{small:.0f} MiB at {SIZES[0]:,} scans, {large:.0f} MiB at {SIZES[1]:,}; "
        f"with two workers {own:.0f} MiB + 2 x {worker:.0f} MiB"
    )
    return [Row("ingest peak memory, 20,000 over 2,000 scans", (large / small,), 1.2, False, detail)]


def _scans(folder: Path, size: int) -> Path:
    settings = PhantomSettings(num_patients=size, images_per_patient=(1, 1), image_size=64, nifti_share=0.0)
    write_phantom_cohort(folder / "scans", settings)
    manifest = folder / "bench.yaml"
    manifest.write_text(MANIFEST.format(folder=folder / "scans"))
    return manifest


def _peaks(manifest: Path, *, workers: int, at_least: float) -> tuple[float, float]:
    """Return the peak resident memory in MiB of ingest's own process and of its largest worker."""
    out = manifest.parent / f"cohort-{workers}"
    command = [sys.executable, "-c", CHILD, str(manifest), str(out), str(workers)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    body = json.loads(done.stdout.strip().splitlines()[-1])
    if body["scans"] < at_least:
        raise RuntimeError(f"only {body['scans']} scans were read")
    return float(body["own"]), float(body["worker"])
