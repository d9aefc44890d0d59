"""The GPU proof without a GPU: every part runs at tiny sizes, keeps to its time and loses nothing."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from models.devices import DeviceChoices
from tests.experiments.benchmarks.gpu import choices, wheels
from tests.experiments.benchmarks.gpu.job import NO_TIME, Job, Part
from tests.experiments.benchmarks.gpu.parts import PARTS
from tests.experiments.benchmarks.gpu.report import markdown, write_report
from tests.experiments.benchmarks.gpu.runner import PartResult, run_parts, scaled
from tests.experiments.benchmarks.gpu.sizes import REHEARSAL
from tests.experiments.benchmarks.rows import Row, Skipped

ROOT = Path(__file__).resolve().parents[3]
ROW = Row("rate", (2.0, 3.0), 1.0, True, "detail", "images/s")
FACTS = {"chip": "Test", "device": "cpu", "torch": "2"}


def run_all(tmp_path: Path, parts: list[Part], seconds: float) -> list[PartResult]:
    return list(run_parts(parts, REHEARSAL, tmp_path, seconds, show=lambda line: None))


def quick(job: Job) -> Iterator[Row | Skipped]:
    yield ROW
    yield Skipped("late", NO_TIME)


def test_a_part_s_figures_reach_the_report(tmp_path: Path) -> None:
    (result,) = run_all(tmp_path, [Part("quick", "Quick", 1.0, quick)], 30.0)
    assert result.rows == [ROW, Skipped("late", NO_TIME)] and not result.error
    text = write_report(tmp_path, FACTS, [result], rehearsed=False)
    assert "2.50 images/s (2.00-3.00)" in text and f"- Quick: late: {NO_TIME}" in text
    body = json.loads((tmp_path / "gpu.json").read_text())
    assert body["parts"][0]["rows"][0]["ratios"] == [2.0, 3.0]


def endless(job: Job) -> Iterator[Row | Skipped]:
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    yield Row("pid", (float(child.pid),), None, True, "")
    time.sleep(60)


def test_a_part_past_its_time_is_ended_with_what_it_started_and_keeps_what_it_showed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.experiments.benchmarks.gpu.runner.GRACE_SECONDS", 0.5)
    started = time.monotonic()
    first, second = run_all(
        tmp_path, [Part("endless", "Endless", 0.5, endless), Part("quick", "Quick", 0.5, quick)], 8.0
    )
    assert time.monotonic() - started < 40
    assert "ended after its 4 s" in first.error
    assert second.rows[0] == ROW and not second.error
    (shown,) = first.rows
    assert isinstance(shown, Row)
    # Killed, it is gone or waits to be reaped by whoever adopted it.
    status = Path(f"/proc/{int(shown.median)}/stat")
    if Path("/proc/self/stat").exists():
        assert not status.exists() or status.read_text().rsplit(")", 1)[1].split()[0] == "Z"


def failing(job: Job) -> Iterator[Row | Skipped]:
    yield ROW
    raise ValueError("out of luck")


def killed(job: Job) -> Iterator[Row | Skipped]:
    yield ROW
    os.kill(os.getpid(), 9)


def test_a_part_that_fails_or_dies_is_named_and_the_next_one_runs(tmp_path: Path) -> None:
    parts = [Part(own.__name__, own.__name__, 1 / 3, own) for own in (failing, killed, quick)]
    bad, dead, good = run_all(tmp_path, parts, 60.0)
    assert bad.rows == [ROW] and "ValueError: out of luck" in bad.error
    assert dead.rows == [ROW] and "-9" in dead.error
    assert not good.error
    text = markdown(FACTS, [bad, dead, good], rehearsed=False)
    assert "Not finished: ValueError: out of luck" in text


def test_what_a_part_leaves_the_next_ones_have(tmp_path: Path) -> None:
    parts = [Part("a", "A", 0.5, quick), Part("b", "B", 0.5, quick)]
    first, second = run_all(tmp_path, parts, 40.0)
    assert 19 < first.planned < 21
    assert second.planned > 30


def test_shares_add_up_to_the_whole_also_of_some_parts() -> None:
    assert sum(part.share for part in PARTS) == pytest.approx(1.0)
    assert sum(part.share for part in scaled(PARTS[1:3])) == pytest.approx(1.0)


def test_every_choice_by_device_is_measured() -> None:
    fields = {field.name for field in dataclasses.fields(DeviceChoices)}
    # The widest type is no choice of speed; the size of products is measured where they are made.
    assert fields - {"wide", "entries_at_once"} == set(choices.MEASURED) - {"allocator", "optimiser"}


def test_wheels_are_importable_from_where_they_lie(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "brought_along-1-py3-none-any.whl", "w") as archive:
        archive.writestr("brought_along/__init__.py", "value = 7")
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    site = wheels.unpack(sys.path)
    assert site is not None and sys.path[0] == str(site)
    import brought_along  # type: ignore[import-not-found]

    assert brought_along.value == 7
    assert wheels.unpack(["", str(ROOT)]) is None


def test_without_a_gpu_the_proof_says_so() -> None:
    import torch

    if torch.cuda.is_available() or torch.backends.mps.is_available():
        pytest.skip("there is an accelerator")
    done = proof("--only", "smoke", "unused")
    assert done.returncode == 2 and "--rehearse" in done.stderr


def test_the_rehearsal_runs_every_part_to_its_end(tmp_path: Path) -> None:
    done = proof("--rehearse", str(tmp_path))
    assert done.returncode == 0, done.stderr[-3000:]
    body = json.loads((tmp_path / "gpu.json").read_text())
    assert [part["name"] for part in body["parts"]] == [part.name for part in PARTS]
    assert not [part["error"] for part in body["parts"] if part["error"]]
    rows = [row for part in body["parts"] for row in part["rows"]]
    assert NO_TIME not in {row.get("reason") for row in rows}
    by_name = {row["name"]: row for row in rows}
    assert by_name["weights after a kill differ from those of an undisturbed run"]["ratios"] == [0.0]
    assert by_name["phantom images released"]["ratios"][0] >= 1
    assert (tmp_path / "phantom.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "gpu.md").read_text()
    assert "A rehearsal at tiny sizes" in text and all(f"## {part.title}" in text for part in PARTS)


def proof(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "tests.experiments.benchmarks.gpu", *arguments]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
