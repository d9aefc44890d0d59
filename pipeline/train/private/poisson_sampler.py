"""Poisson sampling of the scans of a private training step: patients at random, and one scan of each."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.noise import stream_seed
from pipeline.arrays import Ints
from pipeline.artifacts.cohort import Cohort
from pipeline.train.batches import BatchPlan
from pipeline.train.parts import ScanSettings
from pipeline.train.private.patients import train_patients

if TYPE_CHECKING:
    from pipeline.train.private.budget import PrivacyBudget


def draw_of(
    cohort: Cohort, scans: ScanSettings, batch_size: int, seed: int, budget: PrivacyBudget | None
) -> BatchPlan | PatientDraw:
    """Return what draws the scans of every step: batches, or under a budget Poisson samples of patients."""
    if budget is not None:
        return PatientDraw(cohort, sample_rate=budget.sample_rate, secret=budget.secret)
    return BatchPlan(
        cohort,
        batch_size=batch_size,
        class_balance=scans.class_balance,
        balance_by=scans.balance_by,
        seed=seed,
    )


class PatientDraw:
    """Draws patients for every step independently of one another (Poisson sampling).

    The privacy accountant assumes this sampling. The number of scans of a step varies and can be zero. Each
    drawn patient gives one scan, so that a patient changes a step by one clipped gradient.

    Args:
        cohort: the cohort, from whose train split rows are drawn.
        sample_rate: probability of each patient to be part of a step, in (0, 1].
        secret: seed of the draws.
    """

    def __init__(self, cohort: Cohort, *, sample_rate: float, secret: int) -> None:
        patients = train_patients(cohort)
        self._sizes = np.array([len(rows) for rows in patients], dtype=np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._rows = np.concatenate(patients)
        self._sample_rate, self._secret = sample_rate, secret

    def rows(self, step: int) -> Ints:
        """Return the cohort rows of `step` (counted from 0)."""
        generator = np.random.Generator(np.random.PCG64(stream_seed(self._secret, "patients", step)))
        drawn = np.flatnonzero(generator.random(len(self._sizes)) < self._sample_rate)
        scan = generator.integers(self._sizes[drawn])
        return self._rows[self._starts[drawn] + scan]
