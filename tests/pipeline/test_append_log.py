"""Logs that are only ever appended to: whole after a cut, with two writers, and wherever an output lies."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import append_log
from pipeline.append_log import append_entry, log_beside, read_entries
from pipeline.errors import StorageError

ROOT = Path(__file__).parents[2]
WRITER = """
import sys
from pathlib import Path
from pipeline.append_log import append_entry
for number in range(40):
    append_entry(Path(sys.argv[1]), {"writer": sys.argv[2], "number": number, "filling": "x" * 3000})
"""


def test_entries_come_back_in_order_and_nobody_else_may_read_them(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    assert read_entries(log) == []
    for number in range(3):
        append_entry(log, {"number": number, "text": "ä"})
    found = read_entries(log)
    assert [entry["number"] for entry in found] == [0, 1, 2]
    assert all(re.fullmatch(r"\d{4}(-\d\d){2}T(\d\d:){2}\d\dZ", entry["time"]) for entry in found)
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


@pytest.mark.parametrize("cut", [b'{"number":', b'{"text":"\xc3', b"\0\0\0", b"[1]"])
def test_a_line_that_was_cut_short_loses_no_other(tmp_path: Path, cut: bytes) -> None:
    log = tmp_path / "log.jsonl"
    append_entry(log, {"number": 0})
    with log.open("ab") as stream:
        stream.write(cut)
    assert [entry["number"] for entry in read_entries(log)] == [0]
    append_entry(log, {"number": 1})
    assert [entry["number"] for entry in read_entries(log)] == [0, 1]


def test_two_processes_lose_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    commands = [[sys.executable, "-c", WRITER, str(log), name] for name in "ab"]
    running = [subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}) for command in commands]
    assert [process.wait() for process in running] == [0, 0]
    found = read_entries(log)
    for name in "ab":
        assert [entry["number"] for entry in found if entry["writer"] == name] == list(range(40))
    assert len(log.read_bytes().splitlines()) == len(found) == 80


def test_the_log_lies_beside_what_may_be_replaced_and_inside_what_cannot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run" / "evaluation"
    out.mkdir(parents=True)
    assert log_beside(out, "log") == tmp_path / "run" / "log"
    (tmp_path / "link").symlink_to(out)
    assert log_beside(tmp_path / "link", "log") == tmp_path / "run" / "log"
    monkeypatch.setattr(append_log.os.path, "ismount", lambda path: Path(path) == out)
    assert log_beside(out, "log") == out / "log"
    monkeypatch.setattr(append_log.os.path, "ismount", lambda path: False)
    monkeypatch.setattr(append_log.os, "access", lambda path, mode: Path(path) != out.parent)
    assert log_beside(out, "log") == out / "log"


def test_a_log_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    with pytest.raises(StorageError, match="no space"):
        append_entry(tmp_path / "log.jsonl", {"number": 0})
