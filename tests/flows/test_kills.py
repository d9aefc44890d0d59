"""A whole run killed (-9) at ten seeded moments ends in the release of an undisturbed one."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.records import ReleaseRef
from pipeline.stage import load_reference
from tests.cohorts import write_cohort
from tests.flows.conftest import MICRO, PHANTOM, sets, spawn

SEED = 20
SLOWER = (
    *MICRO,
    "train.num_steps=120",
    "train.checkpoint_every_steps=2",
    "sample.per_class=40",
    "sample.overdraw=4",
)
"""Long enough in each stage to be hit in it; a checkpoint is written every second step. Enough candidates for
the gate to leave as many as are asked for."""

Moment = Callable[[Path, str], bool]


def said(text: str) -> Moment:
    """Return a moment that has come once the log holds `text`."""
    return lambda _run, log: text in log


def there(pattern: str, least: int = 1) -> Moment:
    """Return a moment that has come once at least so many paths match below the run directory."""
    return lambda run, _log: sum(1 for _ in run.glob(pattern)) >= least


MOMENTS: tuple[tuple[str, Moment, float], ...] = (
    ("while the server starts", lambda _run, _log: True, 3.0),
    ("in ingest", there("cohort/inputs.json"), 0.2),
    ("early in train", there("checkpoint/machine.json"), 0.5),
    ("in the middle of a checkpoint write", there("checkpoint/state/.*.tmp"), 0.0),
    ("between two checkpoints", there("checkpoint/state/step-0000000[2-9]*.safetensors"), 0.5),
    ("late in train", there("checkpoint/grids/step-0000[6-9]*"), 0.5),
    ("in sample", there("candidates/pixels-0000[3-9].npy"), 0.2),
    ("in audit", there("audit/inputs.json"), 0.5),
    ("in the middle of a release", there(".release.partial-*/images/*/*.png", 30), 0.0),
    ("in evaluate", there("evaluation/*/*.safetensors"), 0.2),
)
"""(where, condition to wait for, largest extra delay in seconds, drawn from the seed)."""


class Watched:
    """A `phosphor run` in a process group of its own, with its log."""

    def __init__(self, run: Path, home: Path) -> None:
        self.run = run
        self.lines: list[str] = []
        self.process: subprocess.Popen[str] = spawn(
            "run", PHANTOM, "--recipe", "smoke", "--out", run, *sets(SLOWER), env={"PREFECT_HOME": str(home)}
        )
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines.append(line)

    def kill_at(self, moment: Moment, delay: float, timeout: float = 300.0) -> bool:
        """Kill the group once the moment has come; return False if the run ended before."""
        deadline = time.monotonic() + timeout
        while not moment(self.run, "".join(self.lines)):
            if self.process.poll() is not None:
                return False
            assert time.monotonic() < deadline, "the moment never came:\n" + "".join(self.lines)
            time.sleep(0.001)
        time.sleep(delay)
        if self.process.poll() is not None:
            return False
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        return True

    def finish(self) -> tuple[int, str]:
        """Wait for the end; return exit code and stdout."""
        assert self.process.stdout
        out = self.process.stdout.read()
        code = self.process.wait(timeout=600)
        self.reader.join(timeout=10)
        return code, out


@pytest.mark.slow
def test_a_run_killed_at_ten_moments_ends_in_the_release_of_an_undisturbed_run(tmp_path: Path) -> None:
    home = tmp_path / "prefect"
    undisturbed = Watched(tmp_path / "undisturbed", home)
    code, _ = undisturbed.finish()
    assert code == 0, "".join(undisturbed.lines)
    expected = load_reference(ReleaseRef, tmp_path / "undisturbed" / "release")

    rng = random.Random(SEED)
    run = tmp_path / "killed"
    killed: list[str] = []
    for where, moment, longest in MOMENTS:
        delay = rng.uniform(0.0, longest)
        watched = Watched(run, home)
        hit = watched.kill_at(moment, delay)
        # Logged with -s, so that a failure can be replayed: moments and delays follow from the seed.
        print(f"kill {where}: {'hit' if hit else 'the run had ended'} after a delay of {delay:.3f} s")
        if hit:
            killed.append(where)
            release = run / "release"
            assert not release.exists() or load_reference(ReleaseRef, release).digest == expected.digest
    assert len(killed) == len(MOMENTS), f"only killed {killed}"

    last = Watched(run, home)
    code, out = last.finish()
    assert code == 0, "".join(last.lines)
    assert json.loads(out.strip().splitlines()[-1])["digests"]["release"] == expected.digest
    for stage in ("cohort", "checkpoint", "candidates"):
        same = [
            json.loads((folder / stage / "reference.json").read_text())["digest"]
            for folder in (run, tmp_path / "undisturbed")
        ]
        assert same[0] == same[1], stage
    assert not list(run.glob(".release.partial-*"))


def test_a_killed_command_leaves_no_prefect_server_behind(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "run", tmp_path / "prefect")
    deadline = time.monotonic() + 120
    children: list[int] = []
    while not children and time.monotonic() < deadline and watched.process.poll() is None:
        children = [pid for pid in child_pids(watched.process.pid) if "flows.server" in command_of(pid)]
        time.sleep(0.02)
    assert children, "".join(watched.lines)
    os.killpg(watched.process.pid, signal.SIGKILL)
    watched.process.wait()
    deadline = time.monotonic() + 60
    while any("flows.server" in command_of(pid) for pid in children):
        assert time.monotonic() < deadline, "the server outlived its parent by a minute"
        time.sleep(0.1)


def child_pids(parent: int) -> list[int]:
    """Return the direct children of a process."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rsplit(")", 1)[1].split()
        except (OSError, IndexError):
            continue
        if int(fields[1]) == parent:
            found.append(int(path.parent.name))
    return found


def command_of(pid: int) -> str:
    """Return the command line of a process, empty if it has ended."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def test_an_interrupt_exits_130_and_the_same_command_goes_on(tmp_path: Path) -> None:
    write_cohort(tmp_path / "cohort", num_scans=60, image_size=16)
    arguments = ("train", tmp_path / "cohort", "--out", tmp_path / "out", "--recipe", "smoke")
    process = spawn(*arguments, *sets((*MICRO, "train.num_steps=3000")))
    deadline = time.monotonic() + 120
    while not list(tmp_path.glob("out/state/step-*")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out == ""
    assert err.strip().splitlines()[-1].startswith("Stopped. Finished work is kept")
    assert "Traceback" not in err
    assert list(tmp_path.glob("out/state/step-*"))
