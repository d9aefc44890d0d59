"""No process of a user's classifier outlives its time limit, a failure beside it, an interrupt or a kill."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.errors import DataError, PhosphorError
from tests.pipeline.evaluate.own.conftest import ARM, SEED, Train, processes_below, wait_until

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/cmdline").exists(), reason="needs the processes in /proc"
)

ROOT = Path(__file__).resolve().parents[4]
HANG = """
import pathlib, signal, subprocess, sys, time

def hang(name):
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    here = pathlib.Path(__file__).resolve().parent
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)", str(here)])
    (here / f"started {name}").touch()
    time.sleep(600)
"""


@pytest.fixture
def hanging(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, str]]:
    """Return the settings of a function and a command that start a process that hangs, and hang too."""
    function = "def function(arm, parts, asked, *, num_classes, seed):\n    hang(arm.name)\n"
    (tmp_path / "own_hanging.py").write_text(HANG + function, encoding="utf-8")
    (tmp_path / "command.py").write_text(f"{HANG}\nhang('real_balanced')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    command = shlex.join([sys.executable, str(tmp_path / "command.py")])
    return {
        "function": {"classifier": "own_hanging:function"},
        "command": {"classifier": "command", "command": command},
    }


@pytest.mark.parametrize("kind", ["command", "function"])
def test_one_that_hangs_is_ended_with_what_it_has_started(
    tmp_path: Path, train: Train, hanging: dict[str, dict[str, str]], kind: str
) -> None:
    for minutes in (0.03, 0.12, 0.5, 2.0):  # until a slow machine gets as far as to hang
        with pytest.raises(PhosphorError, match=f"took more than {minutes:g} min") as raised:
            train(**hanging[kind], classifier_minutes=minutes)
        assert wait_until(lambda: processes_below(tmp_path) == [])
        if (tmp_path / "started real_balanced").exists():
            break
    assert isinstance(raised.value, DataError)
    assert f"in arm real_balanced with seed {SEED}" in raised.value.problem
    assert "Raise evaluate.classifier_minutes" in raised.value.remedy
    assert list((tmp_path / "out" / "classifiers").glob(".*")) == []


def test_what_a_command_leaves_running_is_ended_with_it(tmp_path: Path, train: Train) -> None:
    body = HANG.replace("    time.sleep(600)\n", "") + "\nhang('it')\n"
    (tmp_path / "command.py").write_text(body, encoding="utf-8")
    with pytest.raises(DataError, match=r"wrote no scores\.csv"):
        train(classifier="command", command=shlex.join([sys.executable, str(tmp_path / "command.py")]))
    assert (tmp_path / "started it").exists()
    assert wait_until(lambda: processes_below(tmp_path) == [])


def test_a_failure_ends_those_that_run_beside_it(
    tmp_path: Path, train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.evaluate.training.num_workers", lambda: 2)
    body = f"""{HANG}
import json, sys, time
here = pathlib.Path(__file__).resolve().parent
if json.loads(open(sys.argv[1] + "/job.json").read())["arm"] == "real":
    while not (here / "started it").exists():
        time.sleep(0.05)
    sys.exit(7)
hang("it")
"""
    (tmp_path / "command.py").write_text(body, encoding="utf-8")
    command = shlex.join([sys.executable, str(tmp_path / "command.py")])
    with pytest.raises(DataError, match="exit code 7 in arm real with"):
        train((ARM, replace(ARM, name="real")), classifier="command", command=command)
    assert processes_below(tmp_path) == []


PARENT = """
import signal
import sys
from pathlib import Path
import numpy as np
from pipeline.evaluate.classifiers import classifier_of
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.training import Job, run_jobs
from tests.pipeline.evaluate.own.conftest import ARM, QUESTION, images

# Whoever runs the tests may ignore it, as nohup does, and programs inherit that.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
out, command = Path(sys.argv[1]) / "out", sys.argv[2]
settings = EvaluateSettings(classifier="command", command=command)
labels = np.array([0, 1])
run_jobs(
    [Job(ARM, 1, ("val",))],
    out / "classifiers",
    lambda arm, seed: [(images(labels), labels)],
    {"val": images(labels)},
    fit_predict=classifier_of(settings, QUESTION, out),
    num_classes=2,
)
"""


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_the_end_of_the_pipeline_is_their_end(
    tmp_path: Path, hanging: dict[str, dict[str, str]], sent: signal.Signals
) -> None:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    arguments = [sys.executable, "-c", PARENT, str(tmp_path), hanging["command"]["command"]]
    with subprocess.Popen(arguments, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True) as parent:
        timer = threading.Timer(240, parent.kill)
        timer.start()
        try:
            assert wait_until((tmp_path / "started real_balanced").exists, 120)
            parent.send_signal(sent)
            _, said = parent.communicate()
        finally:
            timer.cancel()
            parent.kill()
    assert parent.returncode == -sent
    assert ("KeyboardInterrupt" in said) == (sent == signal.SIGINT)
    assert wait_until(lambda: processes_below(tmp_path) == [])
    # What a kill has left is in the private folder of the results.
    left = list((tmp_path / "out" / "classifiers").glob(".*"))
    assert bool(left) == (sent != signal.SIGINT)
    assert all(path.stat().st_mode & 0o077 == 0 for path in left)
