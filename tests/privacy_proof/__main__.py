"""The gate's whole proof: `python -m tests.privacy_proof [MANIFEST] [OUT] [option=value ...]`.

Recall of planted copies, a model overfitted on purpose beside a healthy one, canaries. Models and cohorts are
kept in OUT (runs/privacy-proof), so that a second call measures only. Options go to every part that knows
them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PARTS = (
    ("overfitted", ("healthy=1",)),
    ("recall", ()),
    ("canaries", ()),
)


def main() -> int:
    """Run every part; the exit code is 1 where one of them missed what it is held against."""
    words = [word for word in sys.argv[1:] if "=" not in word]
    places = [
        words[0] if words else "data_manifests/pneumoniamnist.yaml",
        words[1] if len(words) > 1 else "runs/privacy-proof",
    ]
    options = [word for word in sys.argv[1:] if "=" in word]
    missed = []
    for name, own in PARTS:
        given = [*own, *options]
        if name == "recall":
            # The overfitted part has trained the healthy model: image to image needs one.
            size = next((word.removeprefix("size=") for word in options if word.startswith("size=")), "28")
            given.append(f"checkpoint={Path(places[1]) / f'healthy-{size}' / 'checkpoint'}")
        print(f"\n== {name}", flush=True)
        command = [sys.executable, "-m", f"tests.privacy_proof.{name}", *places, *given]
        if subprocess.run(command, check=False).returncode:
            missed.append(name)
    print(f"\nnot as it should be: {', '.join(missed) or 'nothing'}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
