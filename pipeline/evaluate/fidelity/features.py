"""Features of real scans, for the evaluation."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch

from models.evaluation.features import FeatureEncoder
from models.evaluation.spectrum import octave_power
from pipeline.arrays import Ints
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.release import ReleasedImages
from pipeline.distributed.cpu_threads import threads
from pipeline.evaluate.arms import Images
from pipeline.evaluate.fidelity.measure import FeatureSet

_FEATURE_BLOCK, _POWER_BLOCK = 8192, 256


def real_features(encoder: FeatureEncoder, cohort: Cohort, split: str, patients: Ints) -> FeatureSet:
    """Encode all scans of a split, block by block, so that not all pixels are in memory at once."""
    rows = cohort.rows(split)
    blocks = []
    for start in range(0, max(len(rows), 1), _FEATURE_BLOCK):
        images = cohort.images(rows[start : start + _FEATURE_BLOCK])
        blocks.append((features(encoder, images), power(images)))
    labels = np.asarray(cohort.labels)[rows].astype(np.int64)
    found, detail = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return FeatureSet(found, labels, patients[rows], detail)


def released_features(encoder: FeatureEncoder, release: ReleasedImages) -> FeatureSet:
    """Encode all released images, each of which counts as its own patient."""
    images = release.images()
    numbers = np.arange(len(release), dtype=np.int64)
    return FeatureSet(features(encoder, images), release.labels, numbers, power(images))


def power(images: Images) -> npt.NDArray[np.float32]:
    """Return the power of images (n, 1, H, W) by octaves, (n, octaves)."""
    with threads(1):
        blocks = torch.from_numpy(images).split(_POWER_BLOCK)
        return torch.cat([octave_power(block) for block in blocks]).numpy()


def features(encoder: FeatureEncoder, images: Images) -> npt.NDArray[np.float32]:
    """Encode images (n, 1, H, W) in [-1, 1] on one thread, so that equal images give equal features."""
    with threads(1):
        return encoder(torch.from_numpy(images)).numpy()
