"""One drawn cohort, one healthy audit and one with planted copies, shared by the tests of the gate."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts.cohort import Cohort
from pipeline.privacy import run_audit
from tests.cohorts import write_cohort
from tests.pipeline.privacy.sets import KINDS, QUICK, disguised, fresh, write_candidates


@pytest.fixture(scope="session")
def gate_cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cohort of 600 drawn scans of 300 patients, about 60 of them holdout."""
    return write_cohort(tmp_path_factory.mktemp("gate") / "cohort", num_scans=600).path


@pytest.fixture(scope="session")
def healthy(gate_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with `candidates` (180 fresh drawings, 45 a class asked) and their `audit`."""
    folder = tmp_path_factory.mktemp("healthy")
    pixels, labels = fresh(180, seed=1)
    write_candidates(folder / "candidates", pixels, labels, per_class=45)
    run_audit(folder / "candidates", gate_cohort, folder / "audit", QUICK, seed=0)
    return folder


@pytest.fixture(scope="session")
def planted(gate_cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder whose last 50 candidates are copies of train, ten of each kind; hash rules are off."""
    folder = tmp_path_factory.mktemp("planted")
    cohort = Cohort(gate_cohort)
    rows = np.random.default_rng(5).choice(cohort.rows("train"), 50, replace=False)
    copies = [disguised(cohort.take(rows[i * 10 : i * 10 + 10]), kind) for i, kind in enumerate(KINDS)]
    pixels, labels = fresh(130, seed=2)
    everything = np.concatenate([pixels, *copies])
    codes = np.concatenate([labels, np.asarray(cohort.labels)[rows]])
    write_candidates(folder / "candidates", everything, codes, per_class=30)
    settings = QUICK.model_copy(update={"hash_rules": False})
    run_audit(folder / "candidates", gate_cohort, folder / "audit", settings, seed=0)
    return folder
