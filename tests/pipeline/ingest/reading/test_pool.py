"""Worker processes that die or hang: the scan to blame is refused by name, all others are kept."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image, PngImagePlugin

from pipeline.ingest import run_ingest
from pipeline.ingest.reading import pool, processes
from pipeline.ingest.reading.journal import Journal, readings
from pipeline.ingest.settings import IngestSettings
from tests.pipeline.ingest.scans import manifest_of, write_images

SETTINGS = IngestSettings(image_size=16, chunk_scans=6, scan_seconds=2.0, workers=2)

PATCH = """
    import os, time
    import PIL.Image
    real = PIL.Image.open
    def hostile(stream, *args, **kwargs):
        data = stream.getvalue()
        if b"CRASH-IT" in data:
            os.abort()
        if b"STALL-IT" in data:
            time.sleep(600)
        return real(stream, *args, **kwargs)
    PIL.Image.open = hostile
"""
"""Stands for a decoder with a defect: every new interpreter runs it before anything else."""


@pytest.fixture
def hostile_decoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give worker processes a decoder that dies or hangs on marked files."""
    folder = tmp_path / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(textwrap.dedent(PATCH))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setattr(pool, "POOL_PAYS_SECONDS", 0.0)
    monkeypatch.setattr(pool, "PROBE_SECONDS", 0.0)
    monkeypatch.setattr(pool, "WATCH_SECONDS", 0.2)


def mark(path: Path, word: str) -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", word)
    with Image.open(path) as image:
        image.save(path, pnginfo=text)


def reasons(out: Path) -> list[str]:
    return sorted(pd.read_parquet(out / "rejected.parquet")["reason"])


@pytest.mark.usefixtures("hostile_decoder")
def test_files_that_kill_or_stall_their_reader_are_refused_and_the_rest_is_kept(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scans = write_images(tmp_path)
    files = sorted(scans.rglob("*.png"))
    mark(files[20], "CRASH-IT")
    mark(files[33], "STALL-IT")
    with caplog.at_level(logging.WARNING):
        reference = run_ingest(manifest_of(tmp_path), tmp_path / "out", SETTINGS)
    assert reference.counts["scans"] == len(files) - 2
    assert reasons(tmp_path / "out") == ["crashed its decoder", "took too long to read"]
    assert "Smith" not in caplog.text
    assert "crashed its decoder" in caplog.text


def test_a_run_that_a_file_killed_goes_on_without_it(tmp_path: Path) -> None:
    """In one process the whole run dies; the next run finds the culprit in the journal."""
    scans = write_images(tmp_path)
    files = sorted(scans.rglob("*.png"))
    mark(files[20], "CRASH-IT")
    manifest_of(tmp_path)
    script = textwrap.dedent(PATCH) + textwrap.dedent(f"""
        from pathlib import Path
        from pipeline.ingest import run_ingest
        from pipeline.ingest.settings import IngestSettings
        from pipeline.manifest import load_manifest
        if __name__ == "__main__":
            folder = Path({str(tmp_path)!r})
            settings = IngestSettings(image_size=16, chunk_scans=6, workers=1)
            print(run_ingest(load_manifest(folder / "manifest.yaml"), folder / "out", settings).counts)
    """)
    (tmp_path / "go.py").write_text(script)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[4])}
    command = [sys.executable, str(tmp_path / "go.py")]
    first = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert first.returncode < 0
    second = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert second.returncode == 0, second.stderr
    assert f"'scans': {len(files) - 1}" in second.stdout
    assert reasons(tmp_path / "out") == ["crashed its decoder"]


@pytest.mark.parametrize(
    ("exit_code", "posix", "windows"),
    [(0, False, False), (1, False, False), (-11, True, True), (3, False, True), (0xC0000005, False, True)],
)
def test_a_crash_is_told_from_an_exit_on_each_system(
    monkeypatch: pytest.MonkeyPatch, exit_code: int, posix: bool, windows: bool
) -> None:
    """Windows gives no signal but the exception, or 3 where C's `abort` was called."""
    for on_windows, expected in ((False, posix), (True, windows)):
        monkeypatch.setattr(processes, "ON_WINDOWS", on_windows)
        assert processes.has_crashed(exit_code) is expected


def test_windows_gets_no_more_workers_than_it_can_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "ON_WINDOWS", True)
    with processes.process_pool(100) as workers:
        assert workers._max_workers == 61


def test_a_journal_tells_what_a_process_reads_and_nothing_when_it_is_idle(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert readings(tmp_path) == []
    journal.reading(3, 7)
    (now,) = readings(tmp_path)
    assert (now.pid, now.chunk, now.position) == (os.getpid(), 3, 7)
    assert now.seconds >= 0
    journal.close()
    assert readings(tmp_path) == []


@pytest.mark.parametrize(
    ("scans", "setting", "length"),
    [(3, 128, 4), (100, 128, 7), (999, 128, 63), (10**6, 128, 128), (50, 5, 4)],
)
def test_short_lists_are_cut_into_enough_chunks_for_all_workers(
    scans: int, setting: int, length: int
) -> None:
    assert pool.chunk_length(scans, setting) == length
