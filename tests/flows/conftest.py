"""Fixtures of the flow and command-line tests: calling `phosphor`, a Prefect server, a finished run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from flows.server import set_quiet_environment

ROOT = Path(__file__).resolve().parents[2]
PHANTOM = ROOT / "data_manifests" / "phantom.yaml"

MICRO = (
    "ingest.image_size=16",
    "ingest.phantom_patients=60",
    "ingest.workers=1",
    "train.num_steps=24",
    "train.channels=[8, 16]",
    "train.attention=[false, true]",
    "train.num_norm_groups=8",
    "train.num_head_channels=8",
    "train.grid_every_steps=12",
    "train.checkpoint_every_steps=8",
    "sample.per_class=6",
    "sample.num_steps=4",
    "sample.batch_size=8",
    "sample.shard_size=8",
    "audit.embedding_steps=4",
    "audit.embedding_batch=32",
    "audit.rotations=[0.0]",
    "audit.planted_per_kind=3",
    "evaluate.seeds=1",
    "evaluate.num_steps=8",
    "evaluate.encoder_steps=8",
    "evaluate.num_resamples=100",
    "evaluate.ratios=[1.0]",
)
"""Overrides that make the smoke recipe small enough to be run many times."""

# Before Prefect is imported anywhere: its settings and log set-up are read at import.
set_quiet_environment()


@dataclass(frozen=True)
class Outcome:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def last_line(self) -> Any:
        """The JSON object in the last line of stdout."""
        return json.loads(self.out.strip().splitlines()[-1])


Call = Callable[..., Outcome]


def sets(overrides: tuple[str, ...] = MICRO) -> list[str]:
    """Return overrides as command-line arguments."""
    return [argument for override in overrides for argument in ("--set", override)]


@pytest.fixture
def call(capfd: pytest.CaptureFixture[str]) -> Call:
    """Return a function that runs one `phosphor` command in this process."""

    def run(*arguments: object) -> Outcome:
        from flows.cli.app import app

        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            app([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        code = ended.value.code
        return Outcome(code if isinstance(code, int) else int(code is not None), out, err)

    return run


def spawn(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    """Start one `phosphor` command in a process group of its own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **options.pop("env", {})}
    environment.pop("PREFECT_API_URL", None)
    return subprocess.Popen(
        [sys.executable, "-m", "flows.cli.app", *[str(argument) for argument in arguments]],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **options,
    )


@pytest.fixture(scope="session")
def prefect_api() -> Iterator[str]:
    """Provide a real Prefect server for the session; yields its address."""
    from prefect.settings import get_current_settings
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=180):
        url = get_current_settings().api.url
        assert url
        yield url


@pytest.fixture(scope="session")
def finished_run(prefect_api: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the directory of one whole run of the micro smoke recipe on the phantom."""
    from flows.cli.run import run_flow

    folder = tmp_path_factory.mktemp("run") / "out"
    body = run_flow(flow_parameters(folder))
    assert body["path"] == str(folder)
    return folder


def flow_parameters(folder: Path, *extra: str) -> dict[str, Any]:
    """Return the flow's parameters for a run of the micro recipe."""
    return {
        "manifest": str(PHANTOM),
        "recipe": "smoke",
        "out": str(folder),
        "overrides": [*MICRO, *extra],
        "policy": "research",
        "force": False,
    }
