"""Fixtures of the release tests: one set of candidates with its audit, and one release."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from pipeline.records import Policy, Verdict
from pipeline.release import ReleaseSettings, run_release
from tests.pipeline.release.sets import make_audit, make_candidates

RESEARCH = ReleaseSettings(policy=Policy.RESEARCH)


@pytest.fixture(scope="session")
def gated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return (candidates, audit) with verdict PASS; never to be changed in place."""
    root = tmp_path_factory.mktemp("gated")
    candidates = make_candidates(root / "candidates")
    return candidates, make_audit(root / "audit", candidates)


@pytest.fixture(scope="session")
def inconclusive(gated: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an audit of the same candidates with verdict INCONCLUSIVE."""
    folder = tmp_path_factory.mktemp("inconclusive") / "audit"
    return make_audit(folder, gated[0], verdict=Verdict.INCONCLUSIVE)


@pytest.fixture(scope="session")
def _released(gated: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("released") / "release"
    run_release(*gated, out, ReleaseSettings(), seed=1)
    return out


@pytest.fixture
def release(_released: Path, tmp_path: Path) -> Path:
    """Return an own copy of a strict release, free to be tampered with."""
    return Path(shutil.copytree(_released, tmp_path / "release"))
