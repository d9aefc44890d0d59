"""Patients, classes and findings by number, and their split, for the tests of the split."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.arrays import Bools, Codes
from pipeline.ingest.reading.worker import draw
from pipeline.ingest.settings import IngestSettings
from pipeline.ingest.splitting.splits import HOLDOUT, TEST, TRAIN, VAL, Split, group_strata, split_scans
from pipeline.ingest.splitting.stratify import Limits, count_strata

DEFAULTS = IngestSettings()


def draws_of(count: int, *, seed: int = 0) -> Codes:
    """The draws of patients 0..count-1."""
    return np.array([int(draw(seed, "d", str(patient)), 16) for patient in range(count)])


def split(
    groups: Codes,
    labels: Codes,
    *,
    seed: int = 0,
    kept: Bools | None = None,
    draws: Codes | None = None,
    findings: Bools | None = None,
    known: tuple[Codes, Codes] | None = None,
    **changed: Any,
) -> Split:
    """Split scans of two classes, or of as many as the labels name."""
    names = ("a", "b", *[f"class{code}" for code in range(2, int(labels.max()) + 1)])
    return split_scans(
        groups,
        draws if draws is not None else draws_of(int(groups.max()) + 1, seed=seed),
        labels,
        kept_test=kept if kept is not None else np.zeros(len(groups), dtype=bool),
        classes=names,
        settings=DEFAULTS.model_copy(update=changed),
        keeps_test=kept is not None,
        findings=findings,
        known=known,
    )


def violation(side: Codes, labels: Codes, findings: Bools | None = None, *, tolerance: float = 0.1) -> int:
    """By how many patients (one scan each) the default shares of classes and findings are missed."""
    count = len(labels)
    strata = group_strata(np.arange(count), count, labels, int(labels.max()) + 1, findings)
    shares = {TRAIN: 0.6, VAL: 0.1, TEST: 0.15, HOLDOUT: 0.15}
    target = np.outer([shares[code] for code in range(4)], strata.sum(axis=0))
    return Limits.around(target, tolerance).violation(count_strata(side, strata, 4))


def rare_findings(rng: np.random.Generator, count: int, shares: np.ndarray, *, least: int = 3) -> Bools:
    """Findings (count, K) by their shares, each in at least `least` patients."""
    findings = rng.random((count, len(shares))) < shares
    for column in range(len(shares)):
        findings[rng.choice(count, least, replace=False), column] = True
    return findings
