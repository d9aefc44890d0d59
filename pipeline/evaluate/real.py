"""Real scans for the evaluation: patients as numbers, truth by split, features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from models.evaluation.features import FeatureEncoder
from pipeline.arrays import Ints
from pipeline.artifacts.cohort import Cohort
from pipeline.distributed.cpu_threads import threads
from pipeline.evaluate.arms import Images
from pipeline.evaluate.fidelity import FeatureSet

MIN_PATIENTS_PER_CLASS = 2
_FEATURE_BLOCK = 8192


@dataclass(frozen=True)
class Truth:
    """Labels and patients of the real scans of one split.

    Attributes:
        labels: (n,) class of each scan, in row order.
        patients: (n,) patient of each scan, as a number.
    """

    labels: Ints
    patients: Ints

    def lacking(self, classes: tuple[str, ...]) -> list[str]:
        """Return the classes with too few patients to be measured on this split."""
        return [
            name
            for label, name in enumerate(classes)
            if len(np.unique(self.patients[self.labels == label])) < MIN_PATIENTS_PER_CLASS
        ]


def truth_of(cohort: Cohort, split: str, patients: Ints) -> Truth:
    """Return labels and patients of a split; `patients` is the result of `patient_numbers`."""
    rows = cohort.rows(split)
    return Truth(np.asarray(cohort.labels)[rows].astype(np.int64), patients[rows])


def patient_numbers(cohort: Cohort) -> Ints:
    """Return a number for each row's patient; a row without a known patient is its own patient."""
    names = cohort.records()["patient_id"].fillna("").astype(str).tolist()
    known = cohort.info.has_patient_ids
    keys = [name if known and name else f"row {row}" for row, name in enumerate(names)]
    return np.unique(keys, return_inverse=True)[1].astype(np.int64)


def real_features(encoder: FeatureEncoder, cohort: Cohort, split: str, patients: Ints) -> FeatureSet:
    """Encode all scans of a split, block by block, so that not all pixels are in memory at once."""
    rows = cohort.rows(split)
    blocks = [
        features(encoder, cohort.images(rows[start : start + _FEATURE_BLOCK]))
        for start in range(0, max(len(rows), 1), _FEATURE_BLOCK)
    ]
    labels = np.asarray(cohort.labels)[rows].astype(np.int64)
    return FeatureSet(np.concatenate(blocks), labels, patients[rows])


def features(encoder: FeatureEncoder, images: Images) -> npt.NDArray[np.float32]:
    """Encode images (n, 1, H, W) in [-1, 1] on one thread, so that equal images give equal features."""
    with threads(1):
        return encoder(torch.from_numpy(images)).numpy()
