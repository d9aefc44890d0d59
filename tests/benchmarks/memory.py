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
reference = run_ingest(load_manifest(Path(sys.argv[1])), Path(sys.argv[2]), IngestSettings(workers=2))
peak = [resource.getrusage(who).ru_maxrss / 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(json.dumps({"scans": reference.counts["scans"], "own": peak[0], "worker": peak[1]}))
"""


def measure() -> list[Row]:
    """Ingest both sizes, each in a fresh process, and compare own peak plus two workers' peaks (MiB)."""
    with tempfile.TemporaryDirectory() as name:
        peaks = [_peak(Path(name) / str(size), size) for size in SIZES]
    detail = (
        f"{peaks[0]:.0f} MiB at {SIZES[0]:,} scans, {peaks[1]:.0f} MiB at {SIZES[1]:,} (parent + 2 workers)"
    )
    return [Row("ingest peak memory, 20,000 over 2,000 scans", (peaks[1] / peaks[0],), 1.2, False, detail)]


def _peak(folder: Path, size: int) -> float:
    settings = PhantomSettings(num_patients=size, images_per_patient=(1, 1), image_size=64, nifti_share=0.0)
    write_phantom_cohort(folder / "scans", settings)
    manifest = folder / "bench.yaml"
    manifest.write_text(MANIFEST.format(folder=folder / "scans"))
    command = [sys.executable, "-c", CHILD, str(manifest), str(folder / "cohort")]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    body = json.loads(done.stdout.strip().splitlines()[-1])
    if body["scans"] < 0.95 * size:
        raise RuntimeError(f"only {body['scans']} of {size} scans were read")
    return float(body["own"]) + 2 * float(body["worker"])
