"""On an accelerator: `python -m tests.experiments.benchmarks.gpu [--minutes 9] [--rehearse] [OUT]`.

It needs a checkout on the path and torch, einops, numpy, pandas, pyarrow, scipy, scikit-learn, safetensors,
PyYAML and Pillow; no installation, no network. What such a machine lacks comes as wheels in a folder on
PYTHONPATH, which `python -m tests.experiments.benchmarks.gpu --wheels DIR --python 3.12` downloads elsewhere.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from tests.experiments.benchmarks.gpu import wheels
from tests.experiments.benchmarks.gpu.sizes import REAL, REHEARSAL

OVERHEAD_SECONDS = 15.0
"""Of the time: the report, and the grace of the last part."""


def main(arguments: list[str] | None = None) -> int:
    """Run the proof; the exit code is 1 where a part did not come to its end."""
    begun = time.monotonic()
    about = __doc__.split("\n", 1)[0]
    parser = argparse.ArgumentParser(prog="python -m tests.experiments.benchmarks.gpu", description=about)
    parser.add_argument("out", nargs="?", default="runs/gpu-proof", help="folder of the report")
    parser.add_argument("--minutes", type=float, default=9.0, help="time for everything")
    parser.add_argument("--rehearse", action="store_true", help="the same code at tiny sizes, on any device")
    parser.add_argument("--only", action="append", default=[], help="run this part alone; may be repeated")
    parser.add_argument("--wheels", metavar="DIR", help="download what a GPU machine lacks, and do no more")
    parser.add_argument("--python", default="3.12", help="version of that machine's Python")
    chosen = parser.parse_args(arguments)
    if chosen.wheels:
        size = wheels.download(Path(chosen.wheels), chosen.python)
        names = "\n".join(sorted(wheel.name for wheel in Path(chosen.wheels).glob("*.whl")))
        print(f"{names}\n{size / 2**20:.1f} MiB in {chosen.wheels}: put this folder on PYTHONPATH")
        return 0
    if chosen.rehearse:
        # Tiny sizes gain nothing by threads, and a process that has none may be forked at any moment.
        os.environ["OMP_NUM_THREADS"] = "1"
    _prepare()
    from tests.experiments.benchmarks.gpu.parts import PARTS
    from tests.experiments.benchmarks.gpu.report import machine_facts, write_report
    from tests.experiments.benchmarks.gpu.runner import PartResult, run_parts, scaled

    unknown = set(chosen.only) - {part.name for part in PARTS}
    if unknown:
        parser.error(f"--only must be of {', '.join(part.name for part in PARTS)}, got {sorted(unknown)}")
    with ProcessPoolExecutor(1, mp_context=get_context("fork")) as process:
        facts = process.submit(machine_facts).result()
    if facts["device"] == "cpu" and not chosen.rehearse:
        parser.error("there is no accelerator here: --rehearse runs the same code at tiny sizes on a CPU")
    _say(f"{facts['chip']}, torch {facts['torch']}")
    out = Path(chosen.out)
    out.mkdir(parents=True, exist_ok=True)
    parts = scaled([part for part in PARTS if not chosen.only or part.name in chosen.only])
    left = chosen.minutes * 60 - OVERHEAD_SECONDS - (time.monotonic() - begun)
    results: list[PartResult] = []
    sizes = REHEARSAL if chosen.rehearse else REAL
    for result in run_parts(parts, sizes, out, left, show=_say, goals=not chosen.rehearse):
        results.append(result)
        # After each part: whatever happens next, what is known stays.
        write_report(out, facts, results, rehearsed=chosen.rehearse)
    _say(f"{time.monotonic() - begun:.0f} s; {out / 'gpu.md'} and gpu.json")
    unmet = [row.name for result in results for row in result.rows if not row.met]
    if unmet:
        _say("goals not met: " + "; ".join(unmet))
    return 1 if any(result.error for result in results) else 0


def _say(line: str) -> None:
    print(line, flush=True)


def _prepare() -> None:
    """Make everything importable, and import what all parts need before they are forked."""
    # Asking whether there is a GPU must not open it here: a fork could not use it any more.
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    os.environ.setdefault("PHOSPHOR_KEY", "5e" * 32)
    warnings.filterwarnings("ignore", message="Please use the new API settings to control TF32")
    site = wheels.unpack(sys.path)
    if site is not None:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    import monai.networks.nets  # noqa: F401
    import pandas  # noqa: F401
    import sklearn.metrics  # noqa: F401

    import pipeline.train.loop  # noqa: F401


if __name__ == "__main__":
    sys.exit(main())
