"""A test set whose every read is logged before it happens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from pipeline.append_log import append_entry, read_entries
from pipeline.evaluate.arms import Arm
from pipeline.evaluate.truth import Truth

Readings = Mapping[Arm, Sequence[npt.NDArray[np.float32]]]
"""Arm -> probabilities (n, C) of one split for each classifier seed."""


class TestSplit:
    """A test set with a log of reads: every read is logged before it happens.

    The classifiers' probabilities for its scans are computed with the others, but none is compared with a
    label before `read` is called, once, with the arms chosen on val.

    Args:
        truth: labels and patients of the set.
        readings: probabilities of every arm.
        log: log of the reads.
        cohort: digest of the cohort.
        evaluation: digest of everything that determines the evaluation.
        resumed: whether the evaluation resumes after an interruption: the last logged read of this cohort is
            not repeated if it was the same.
    """

    __test__ = False

    def __init__(
        self, truth: Truth, readings: Readings, log: Path, *, cohort: str, evaluation: str, resumed: bool
    ) -> None:
        self._truth, self._readings, self._log = truth, readings, log
        self._origin = {"cohort": cohort, "evaluation": evaluation}
        self._resumed = resumed

    def read(self, arms: Sequence[Arm]) -> tuple[Truth, dict[Arm, Sequence[npt.NDArray[np.float32]]]]:
        """Return labels and probabilities of the chosen arms; each call is one read."""
        entry = {**self._origin, "arms": [arm.key for arm in arms]}
        earlier = read_entries(self._log) if self._resumed else []
        last = [own for own in earlier if own.get("cohort") == entry["cohort"]][-1:]
        if not last or any(last[0].get(name) != value for name, value in entry.items()):
            append_entry(self._log, entry)
        self._resumed = False
        return self._truth, {arm: self._readings[arm] for arm in arms}
