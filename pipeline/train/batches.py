"""Scans of each training step, as a pure function of seed and step, so that no state is saved."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from models.noise import stream_seed
from pipeline.arrays import Ints
from pipeline.artifacts.cohort import Cohort
from pipeline.errors import DataError

PRESENT = 1
"""State of a finding in `findings.npy`."""


LIMIT = 1.0 + 1e-3
"""Largest magnitude of a pixel in model range, with a tolerance for rounding."""


class BatchPlan:
    """Samples the scans of every step.

    Without balance, each pass over the train split is a separate permutation. With balance, that share of
    each batch is sampled as a class, drawn uniformly, and one of its scans. By findings, it is a finding,
    drawn uniformly (scans without findings count as one more), and one of its scans. So rare and common
    findings are sampled equally often.

    Args:
        cohort: the cohort; rows of its train split are drawn.
        batch_size: scans a step.
        class_balance: share of the places drawn evenly over the groups, in [0, 1].
        seed: run seed.
        balance_by: what the groups are, `class` or `findings`.

    Raises:
        DataError: a class has no scan in the train split, or the cohort has no findings to balance by.
    """

    def __init__(
        self,
        cohort: Cohort,
        *,
        batch_size: int,
        class_balance: float,
        seed: int,
        balance_by: str = "class",
    ) -> None:
        self._batch_size = batch_size
        self._class_balance = class_balance
        self._seed = seed
        self._rows = cohort.rows("train")
        groups = _rows_by_class(cohort)
        if balance_by == "findings":
            groups = _rows_by_finding(cohort, self._rows)
        self._sizes = np.array([len(rows) for rows in groups], dtype=np.int64)
        self._starts = np.cumsum(self._sizes) - self._sizes
        self._grouped = np.concatenate(groups) if class_balance > 0.0 else self._rows[:0]
        self._pass_number = -1
        self._permutation = self._rows

    def rows(self, step: int) -> Ints:
        """Return the cohort rows of `step` (counted from 0)."""
        rows = self._in_passes(step * self._batch_size)
        if self._class_balance == 0.0:
            return rows
        generator = _generator(self._seed, "batch", step)
        balanced = generator.random(self._batch_size) < self._class_balance
        group = generator.integers(len(self._sizes), size=self._batch_size)
        scan = generator.integers(self._sizes[group])
        return np.where(balanced, self._grouped[self._starts[group] + scan], rows)

    def _in_passes(self, first: int) -> Ints:
        """Return the rows at one batch of positions in the sequence of all passes, from position `first`."""
        parts: list[Ints] = []
        position, end = first, first + self._batch_size
        while position < end:
            pass_number, place = divmod(position, len(self._rows))
            if pass_number != self._pass_number:
                self._pass_number = pass_number
                self._permutation = _generator(self._seed, "pass", pass_number).permutation(self._rows)
            parts.append(self._permutation[place : place + end - position])
            position += len(parts[-1])
        return np.concatenate(parts)


def _rows_by_class(cohort: Cohort) -> list[Ints]:
    by_class = [cohort.rows("train", label) for label in range(len(cohort.info.classes))]
    for name, rows in zip(cohort.info.classes, by_class, strict=True):
        if not len(rows):
            raise DataError(
                "a class has no scan in the train split",
                field="cohort",
                value=name,
                remedy="Add scans of this class, or take it out of the manifest's labels.",
            )
    return by_class


def _rows_by_finding(cohort: Cohort, train: Ints) -> list[Ints]:
    if not cohort.info.findings:
        raise DataError(
            "the scans have no findings, only classes",
            field="train.balance_by",
            value="findings",
            remedy="Set train.balance_by=class.",
        )
    present = cohort.findings()[train] == PRESENT
    groups = [train[present[:, column]] for column in range(present.shape[1])]
    groups.append(train[~present.any(axis=1)])
    return [rows for rows in groups if len(rows)]


def _generator(seed: int, purpose: str, position: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(stream_seed(seed, purpose, position)))


def require_usable(images: npt.NDArray[np.float32]) -> None:
    """Refuse images that training cannot use.

    Raises:
        DataError: a value is not finite, or lies outside [-1, 1].
    """
    # NaN compares false with everything.
    if images.size == 0 or (images.min() >= -LIMIT and images.max() <= LIMIT):
        return
    finite = bool(np.isfinite(images).all())
    raise DataError(
        "an image holds values outside [-1, 1]" if finite else "an image holds values that are not finite",
        field="cohort",
        remedy="Ingest again.",
    )
