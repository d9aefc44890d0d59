"""Features of real scans, for the evaluation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch

from models.evaluation.features import FeatureEncoder
from models.evaluation.spectrum import octave_power
from pipeline.arrays import Ints
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.pixels import StoredPixels, to_model_range
from pipeline.artifacts.release import ReleasedImages
from pipeline.distributed.cpu_threads import threads
from pipeline.evaluate.fidelity.measure import FeatureSet
from pipeline.evaluate.training import Images

_BLOCK = 256


def real_features(encoder: FeatureEncoder, cohort: Cohort, split: str, patients: Ints) -> FeatureSet:
    """Encode all scans of a split."""
    rows = cohort.rows(split)
    labels = np.asarray(cohort.labels)[rows].astype(np.int64)
    found, detail = _blockwise(encoder, lambda part: cohort.take(rows[part]), len(rows))
    return FeatureSet(found, labels, patients[rows], detail)


def released_features(encoder: FeatureEncoder, release: ReleasedImages) -> FeatureSet:
    """Encode all released images, each of which counts as its own patient."""
    numbers = np.arange(len(release), dtype=np.int64)
    found, detail = _blockwise(encoder, lambda part: release.pixels[part], len(release))
    return FeatureSet(found, release.labels, numbers, detail)


def _blockwise(
    encoder: FeatureEncoder, take: Callable[[slice], StoredPixels], count: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return features (n, d) and power (n, octaves) of images, of which one block is in memory as float."""
    blocks = []
    for start in range(0, max(count, 1), _BLOCK):
        images = to_model_range(take(slice(start, start + _BLOCK)))
        blocks.append((features(encoder, images), power(images)))
    found, detail = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return found, detail


def power(images: Images) -> npt.NDArray[np.float32]:
    """Return the power of images (n, 1, H, W) by octaves, (n, octaves)."""
    with threads(1):
        return octave_power(torch.from_numpy(images)).numpy()


def features(encoder: FeatureEncoder, images: Images) -> npt.NDArray[np.float32]:
    """Encode images (n, 1, H, W) in [-1, 1] on one thread, so that equal images give equal features."""
    with threads(1):
        return encoder(torch.from_numpy(images)).numpy()
