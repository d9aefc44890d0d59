"""Jobs of several processes on this machine, started as a cluster or as torchrun would start them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
TIMEOUT = 240
"""Seconds after which a job counts as hung; a test that waits so long fails."""


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment of a process that imports this repository and computes on one thread."""
    kept = {name: value for name, value in os.environ.items() if name not in {"RANK", "WORLD_SIZE"}}
    own = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", "PHOSPHOR_RANKS_TIMEOUT": "120"}
    return {**kept, **own, **(extra or {})}


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def run_job(
    program: str, arguments: Sequence[str] = (), *, size: int = 2, world_size: int | None = None, **extra: str
) -> list[subprocess.CompletedProcess[str]]:
    """Run a program in `size` processes that find each other by the environment alone; return all results."""
    shared = {
        "WORLD_SIZE": str(world_size or size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        **extra,
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, *arguments],
            cwd=REPOSITORY,
            env=environment({**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(size)
    ]
    done = []
    try:
        for process in processes:
            out, err = process.communicate(timeout=TIMEOUT)
            done.append(subprocess.CompletedProcess(process.args, process.returncode, out, err))
    finally:
        for process in processes:
            process.kill()
    return done


def torchrun(
    arguments: Sequence[str], *, size: int = 2, extra: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a script or `-m module` under torchrun with `size` processes."""
    launch = ["-m", "torch.distributed.run", f"--nproc-per-node={size}", f"--master-port={free_port()}"]
    return subprocess.run(
        [sys.executable, *launch, *arguments],
        cwd=REPOSITORY,
        env=environment(extra),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
        check=False,
    )
