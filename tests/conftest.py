"""Fixtures that several rooms share: an own key and cache for the session, and small cohorts."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from pipeline.records import CohortRef
from tests.cohorts import write_cohort

# A busy machine is slow: no test asserts a time.
settings.register_profile("phosphor", deadline=None)
settings.load_profile("phosphor")


@pytest.fixture(scope="session", autouse=True)
def _own_key_and_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's key and cache out of the tests."""
    earlier = {name: os.environ.get(name) for name in ("PHOSPHOR_KEY", "PHOSPHOR_CACHE")}
    os.environ["PHOSPHOR_KEY"] = "5e" * 32
    os.environ["PHOSPHOR_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    yield
    for name, value in earlier.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Return the folder of real data, or skip and say which path is missing."""
    named = os.environ.get("PHOSPHOR_DATA")
    root = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not root.is_dir():
        pytest.skip(f"real data is missing: {root} (set PHOSPHOR_DATA)")
    return root


@pytest.fixture(scope="session")
def tiny_cohort(tmp_path_factory: pytest.TempPathFactory) -> CohortRef:
    """Return a cohort of 240 drawn 32x32 scans in 3 classes, 120 patients."""
    return write_cohort(tmp_path_factory.mktemp("tiny") / "cohort")


@pytest.fixture(scope="session")
def tiny_cohort_16(tmp_path_factory: pytest.TempPathFactory) -> CohortRef:
    """Return a cohort of 240 drawn 16x16 scans in 3 classes, 120 patients."""
    return write_cohort(tmp_path_factory.mktemp("tiny16") / "cohort", image_size=16)


def pytest_configure() -> None:
    """Let children be interrupted: what runs in the background ignores that, and they inherit it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
