"""Part h: what the exchange of gradients costs one process that torchrun started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.experiments.benchmarks.gpu.job import Job
from tests.experiments.benchmarks.gpu.sizes import Sizes
from tests.experiments.benchmarks.rows import Row, Skipped

ROOT = Path(__file__).resolve().parents[4]
SIZE = 64
NAME = "one process under torchrun, time of a step over that without exchange"


def run(job: Job) -> Iterator[Row | Skipped]:
    """Start one process by torchrun, which times steps without and with a process group of its own."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1"]
    command += [
        "-m",
        "tests.experiments.benchmarks.gpu.joined",
        json.dumps(asdict(job.sizes)),
        str(job.scratch),
    ]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path])}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        yield Skipped(NAME, f"ended with code {done.returncode}: {done.stderr.strip()[-600:]}", met=False)
        return
    found = json.loads(done.stdout.strip().splitlines()[-1])
    words = f"{found['backend']}; {found['size']}x{found['size']}, batch {found['batch']}; "
    words += f"{max(found['joined']):.0f} against {max(found['alone']):.0f} images/s"
    ratios = tuple(a / b for a, b in zip(found["alone"], found["joined"], strict=True))
    yield Row(NAME, ratios, None, False, words)


def main(arguments: list[str]) -> None:
    """Time both in this process and print what was found as the last line."""
    from torch import distributed

    from models.devices import computing, default_device
    from pipeline.distributed.process_group import Place, Ranks, connect
    from tests.experiments.benchmarks.gpu import loops

    class Joined(Ranks):
        """One process that exchanges all the same."""

        exchanges = True

    sizes, scratch = Sizes(**json.loads(arguments[0])), Path(arguments[1])
    size = min(SIZE, sizes.train_pixels[0])
    batch = min(sizes.batch, 128)
    cohort = loops.noise_cohort(scratch / "joined", size, max(64, 4 * batch))
    settings = loops.recipe_settings(sizes, size, batch_size=batch)
    connected = connect(Place())
    joined = Joined(connected.place, connected._store)
    found: dict[str, Any] = {"size": size, "batch": batch, "backend": distributed.get_backend_config()}
    with computing(default_device()):
        for name, ranks in (("alone", Ranks()), ("joined", joined)):
            own = loops.trainer(cohort, settings, loops.preferred(default_device()), ranks=ranks)
            found[name] = loops.rates(own.step, batch, sizes)
            own.feed.close()
    connected.leave(failed=False)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
