"""Part a: the tests that need a GPU, which are skipped everywhere else."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.experiments.benchmarks.gpu.job import Job
from tests.experiments.benchmarks.rows import Row, Skipped

ROOT = Path(__file__).resolve().parents[4]
FILES = ("tests/models/privacy/test_search_device.py", "tests/pipeline/train/test_cuda.py")
SELECTED = "cuda"
LONGEST = 300


def run(job: Job) -> Iterator[Row | Skipped]:
    """Run them by pytest in this process; a failure is named and does not end the proof."""
    if importlib.util.find_spec("pytest") is None:
        yield Skipped("device tests", "pytest is not installed")
        return
    import pytest

    watch = _Watch()
    os.chdir(ROOT)
    # The report of each test goes to stderr, as the figures alone belong to stdout.
    kept, sys.stdout = sys.stdout, sys.stderr
    try:
        pytest.main(["-q", "-p", "no:cacheprovider", "-k", SELECTED, *FILES], plugins=[watch])
    finally:
        sys.stdout = kept
    words = "; ".join(watch.failures) or f"{watch.passed} passed, {watch.skipped} skipped"
    yield Row("device tests that failed", (float(len(watch.failures)),), 0, False, words)


class _Watch:
    """Counts what pytest reports."""

    def __init__(self) -> None:
        self.passed, self.skipped = 0, 0
        self.failures: list[str] = []

    def pytest_runtest_logreport(self, report: Any) -> None:
        if report.failed:
            self.failures.append(f"{report.nodeid.split('/')[-1]}: {str(report.longrepr)[-LONGEST:]}")
        elif report.skipped:
            self.skipped += 1
        elif report.when == "call":
            self.passed += 1
