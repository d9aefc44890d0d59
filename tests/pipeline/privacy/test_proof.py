"""Proof on whole cohorts: copies are caught without hash rules, and sets without copies do not fail."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.privacy_report import read_privacy_report
from pipeline.ingest import run_ingest
from pipeline.ingest.settings import IngestSettings
from pipeline.manifest import load_manifest
from pipeline.privacy import run_audit
from pipeline.privacy.gate.set_tests import DEPTHS, Plan, holm, run_tests
from pipeline.privacy.search.embedding_cache import cohort_embedding
from pipeline.privacy.search.references import load_references, shrink
from pipeline.privacy.search.views import Views
from pipeline.privacy.settings import AuditSettings
from tests.cohorts import CLASSES
from tests.pipeline.privacy.sets import KINDS, QUICK, disguised, fresh, write_candidates

MANIFESTS = Path(__file__).resolve().parents[3] / "data_manifests"


def failures(cohort: Cohort, resamples: int) -> int:
    """Offer fresh drawings as candidates and count how often any test fails them."""
    references = load_references(cohort, QUICK, np.random.default_rng(0))
    views = Views(references, cohort_embedding(cohort, references, QUICK).network, QUICK)
    held = np.flatnonzero(~references.in_train)
    control = views.search(references.images[torch.from_numpy(held)], references.patients[held]).views
    plan = Plan(DEPTHS, QUICK.null_draws, references.holdout_share)
    classes = {name: code for code, name in enumerate(CLASSES)}
    failed = 0
    for seed in range(resamples):
        pixels, labels = fresh(150, seed=1_000 + seed)
        found = views.search(shrink(pixels, QUICK.search_size)).views
        tests = run_tests(found, labels, classes, plan, control=control, cut=None)
        failed += min(holm([test.p_value for test in tests])) < 0.01
    return failed


def test_sets_without_copies_do_not_fail(gate_cohort: Path) -> None:
    assert failures(Cohort(gate_cohort), 20) <= 1


@pytest.mark.slow
def test_sets_without_copies_pass_in_95_percent_of_200_resamples(gate_cohort: Path) -> None:
    assert failures(Cohort(gate_cohort), 200) <= 10


@pytest.mark.slow
@pytest.mark.parametrize("name", ["phantom", "pneumoniamnist"])
def test_fifty_planted_copies_are_caught_without_hash_rules(
    name: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "pneumoniamnist":
        monkeypatch.setenv("PHOSPHOR_DATA", str(request.getfixturevalue("data_root")))
    size = 28 if name == "pneumoniamnist" else 32
    reference = run_ingest(
        load_manifest(MANIFESTS / f"{name}.yaml"), tmp_path / "cohort", IngestSettings(image_size=size)
    )
    cohort = Cohort(reference.path)
    rows = np.random.default_rng(3).choice(cohort.rows("train"), 50, replace=False)
    copies = [disguised(cohort.take(rows[i * 10 : i * 10 + 10]), kind) for i, kind in enumerate(KINDS)]
    unseen = cohort.rows("val")
    pixels = np.concatenate([cohort.take(unseen), *copies])
    labels = np.asarray(cohort.labels)[np.concatenate([unseen, rows])]
    write_candidates(tmp_path / "candidates", pixels, labels, per_class=5, classes=tuple(cohort.info.classes))
    settings = AuditSettings(hash_rules=False, embedding_steps=100, power_draws=20)
    run_audit(tmp_path / "candidates", reference.path, tmp_path / "audit", settings, seed=0)
    table = pd.read_parquet(tmp_path / "audit" / "candidates.parquet")
    hit = (~table["accepted"] & (table["reason"] != "not needed")).to_numpy()
    by_kind = dict(zip(KINDS, hit[-50:].reshape(5, 10).sum(axis=1).tolist(), strict=True))
    assert by_kind["exact"] == 10 and sum(by_kind.values()) >= 45, by_kind
    assert hit[:-50].mean() <= 0.1
    report = read_privacy_report(tmp_path / "audit")
    assert report.false_reject_interval is not None
    assert report.false_reject_interval[0] <= report.false_reject_budget
