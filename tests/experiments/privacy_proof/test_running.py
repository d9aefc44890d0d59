"""Every part of the proof runs at its smallest, on the phantom cohort; what it finds there means nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SMALLEST = ("size=16", "minutes=0.05", "per_class=40", "scans=40", "halves=4", "draws=4", "power_draws=2")
MORE = ("only=exact", "each=2", "steps=3", "pair_steps=20")


@pytest.mark.slow
def test_the_whole_proof_runs(tmp_path: Path) -> None:
    pytest.importorskip("opacus", reason="needs the extra dp: pip install 'phosphor-xray[dp]'")
    pytest.importorskip("dp_accounting", reason="pip install dp-accounting")
    command = [
        sys.executable,
        "-m",
        "tests.experiments.privacy_proof",
        "data_manifests/phantom.yaml",
        str(tmp_path),
    ]
    done = subprocess.run(
        [*command, *SMALLEST, *MORE],
        cwd=ROOT,
        env={**os.environ, "PHOSPHOR_KEY": "5e" * 32},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr[-4000:]
    parts = re.split(r"\n== (\w+)\n", done.stdout)
    said = dict(zip(parts[1::2], parts[2::2], strict=True))
    assert list(said) == ["overfitted", "dataset", "recall", "canaries", "guarantee", "reidentification"]
    assert "of 4 draws of half the candidates" in said["overfitted"]
    assert "holdout, denoised from sigma 0.5" in said["dataset"] and "20 copies of 2,000" in said["dataset"]
    assert "| exact |" in said["recall"] and "| image_to_image_0.5 |" in said["recall"]
    assert re.search(r"\| combined \| 0\.\d+ \|", said["canaries"])
    stated, other = re.search(r"dp-accounting: ([\d.]+) against ([\d.]+)", said["guarantee"]).groups()  # type: ignore[union-attr]
    assert float(stated) == pytest.approx(float(other), rel=0.01)
    assert "| copy embedding, 10 nearest |" in said["reidentification"]
    assert "not as it should be" in done.stdout
