"""Which scans a training step sees: a pure function of seed and step, so that nothing need be saved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from models.noise import stream_seed
from pipeline.cohort import Cohort
from pipeline.errors import DataError


@dataclass(frozen=True)
class Batch:
    """The scans of one step.

    Attributes:
        rows: cohort rows (N,).
        flipped: which of them are mirrored left to right (N,), bool.
    """

    rows: npt.NDArray[np.int64]
    flipped: npt.NDArray[np.bool_]


class BatchPlan:
    """Draws the scans of every step.

    Without class balance, each pass over the train split is a permutation of its own. With it, that share of
    the places in each batch is given to a class drawn evenly and one of its scans.

    Args:
        cohort: the cohort; rows of its train split are drawn.
        batch_size: scans a step.
        class_balance: share of the places drawn evenly over the classes, in [0, 1].
        horizontal_flip: whether half of the scans are mirrored.
        seed: run seed.

    Raises:
        DataError: a class has no scan in the train split.
    """

    def __init__(
        self, cohort: Cohort, *, batch_size: int, class_balance: float, horizontal_flip: bool, seed: int
    ) -> None:
        self._batch_size = batch_size
        self._class_balance = class_balance
        self._horizontal_flip = horizontal_flip
        self._seed = seed
        self._rows = cohort.rows("train")
        self._by_class = [cohort.rows("train", label) for label in range(len(cohort.info.classes))]
        for name, rows in zip(cohort.info.classes, self._by_class, strict=True):
            if not len(rows):
                raise DataError(
                    "a class has no scan in the train split",
                    field="cohort",
                    value=name,
                    remedy="Add scans of this class, or take it out of the manifest's labels.",
                )
        self._pass_number = -1
        self._permutation = self._rows

    def batch(self, step: int) -> Batch:
        """Return the scans of `step` (counted from 0)."""
        generator = _generator(self._seed, "batch", step)
        first = step * self._batch_size
        rows = np.array([self._row(first + place) for place in range(self._batch_size)], dtype=np.int64)
        if self._class_balance > 0.0:
            balanced = generator.random(self._batch_size) < self._class_balance
            for place in np.flatnonzero(balanced):
                scans = self._by_class[int(generator.integers(len(self._by_class)))]
                rows[place] = scans[int(generator.integers(len(scans)))]
        flipped = np.zeros(self._batch_size, dtype=np.bool_)
        if self._horizontal_flip:
            flipped = generator.random(self._batch_size) < 0.5
        return Batch(rows, flipped)

    def _row(self, position: int) -> int:
        pass_number, place = divmod(position, len(self._rows))
        if pass_number != self._pass_number:
            self._pass_number = pass_number
            self._permutation = _generator(self._seed, "pass", pass_number).permutation(self._rows)
        return int(self._permutation[place])


def load_batch(cohort: Cohort, batch: Batch) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return the images (N, 1, H, W) float32 in [-1, 1] and the labels (N,) of a batch."""
    images = cohort.images(batch.rows)
    if batch.flipped.any():
        images[batch.flipped] = images[batch.flipped][..., ::-1]
    return images, np.asarray(cohort.labels[batch.rows], dtype=np.int64)


def _generator(seed: int, purpose: str, position: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(stream_seed(seed, purpose, position)))
