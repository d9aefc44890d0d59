"""The gate's whole proof: `python -m tests.experiments.privacy_proof [MANIFEST] [OUT] [option=value ...]`.

A model overfitted on purpose beside a healthy one, sets without copies and with few, recall of planted
copies, canaries, a private training, and whether patients can be told by their scans. Models and cohorts are
kept in OUT (runs/privacy-proof), so that a second call measures only. Options go to every part that knows
them.
"""

from __future__ import annotations

import subprocess
import sys
import time

from tests.experiments.privacy_proof.command import called
from tests.experiments.privacy_proof.overfitted import HEALTHY, model_folder

PARTS = {
    "overfitted": ("scans", "per_class", "halves", "seeds", "models"),
    "dataset": ("draws", "power_draws", "checkpoint", "candidates"),
    "recall": ("checkpoint", "only", "listed", "seed", "random"),
    "canaries": ("each",),
    "guarantee": ("epsilon", "steps"),
    "reidentification": ("pair_steps", "width"),
}
"""Part -> the options that it knows beside size and minutes."""


def main() -> int:
    """Run every part; the exit code is 1 where one of them missed what it is held against."""
    call = called([name for known in PARTS.values() for name in known])
    # The first part trains the model of the whole cohort that others ask for.
    healthy = model_folder(call, HEALTHY)
    options = {
        "models": f"overfitted,{HEALTHY}",
        "checkpoint": str(healthy / "checkpoint"),
        "candidates": str(healthy / "candidates"),
        **call.options,
    }
    missed, started = [], time.monotonic()
    for part, known in PARTS.items():
        given = [f"{name}={value}" for name, value in options.items() if name in ("size", "minutes", *known)]
        print(f"\n== {part}", flush=True)
        command = [
            sys.executable,
            "-m",
            f"tests.experiments.privacy_proof.{part}",
            str(call.manifest),
            str(call.out),
        ]
        if subprocess.run([*command, *given], check=False).returncode:
            missed.append(part)
        print(f"\n{part} ends after {(time.monotonic() - started) / 60:.1f} minutes", flush=True)
    print(f"\nnot as it should be: {', '.join(missed) or 'nothing'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
