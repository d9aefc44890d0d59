"""Features of real scans, for the evaluation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from models.evaluation.features import FeatureEncoder
from pipeline.arrays import Ints
from pipeline.artifacts.cohort import Cohort
from pipeline.distributed.cpu_threads import threads
from pipeline.evaluate.arms import Images
from pipeline.evaluate.fidelity.measure import FeatureSet

_FEATURE_BLOCK = 8192


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
