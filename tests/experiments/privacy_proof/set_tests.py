"""The gate's tests of a whole set, tuned on one cohort, for any set that is offered."""

from __future__ import annotations

import numpy as np

from pipeline.arrays import Ints
from pipeline.artifacts.cohort import Cohort
from pipeline.privacy.gate.gate import isolation_cut, tune
from pipeline.privacy.gate.set_tests import DEPTHS, Plan, holm, run_tests
from pipeline.privacy.search.embedding_cache import cohort_embedding
from pipeline.privacy.search.references import load_references
from pipeline.privacy.search.views import VIEWS, Found, Views
from pipeline.privacy.settings import AuditSettings


class SetTests:
    """Tests of sets against one cohort.

    Args:
        cohort: whose train and holdout sets are held against.
        settings: of the audit.
        seed: of the folds and the tuning half, as of an audit.
    """

    def __init__(self, cohort: Cohort, settings: AuditSettings, *, seed: int = 1) -> None:
        self.references = load_references(cohort, settings, np.random.default_rng([seed, 1]))
        self.views = Views(
            self.references, cohort_embedding(cohort, self.references, settings).network, settings
        )
        self.tuned = tune(self.views)
        self._significance = settings.significance
        self._plan = Plan(DEPTHS, settings.null_draws, self.references.holdout_share)
        self._classes = {name: code for code, name in enumerate(cohort.info.classes)}
        self._cut = {view: isolation_cut(self.tuned.calibration, view) for view in VIEWS}

    def fails(self, found: Found, labels: Ints) -> bool:
        """Return whether any test fails a set, by what was found about it and its class codes (n,)."""
        present = {name: code for name, code in self._classes.items() if (labels == code).any()}
        tests = run_tests(found.views, labels, present, self._plan, control=self.tuned.control, cut=self._cut)
        return min(holm([test.p_value for test in tests])) < self._significance

    def failing_halves(self, found: Found, labels: Ints, draws: int, rng: np.random.Generator) -> int:
        """Return how many of so many random halves of a set fail."""
        failed = 0
        for _ in range(draws):
            rows = np.sort(rng.permutation(len(labels))[: len(labels) // 2])
            failed += self.fails(found.take(rows), labels[rows])
        return failed
