"""The nearest real train scan of a few released images, for visual inspection (private)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Floats, Ints
from pipeline.artifacts.release import ReleasedImages
from pipeline.evaluate.fidelity.measure import FeatureSet

_BLOCK_ROWS = 65_536


def nearest_real(
    release: ReleasedImages,
    synthetic: FeatureSet,
    train: FeatureSet,
    train_rows: Ints,
    *,
    classes: tuple[str, ...],
    count: int,
) -> dict[str, list[dict[str, Any]]]:
    """Return, by class, the first `count` released images with their nearest train scan of any class.

    Each entry holds `sample_id`, `row` (of the cohort) and `distance` (Euclidean, standardised features).
    """
    shown: dict[str, list[dict[str, Any]]] = {}
    for label, name in enumerate(classes):
        chosen = release.rows(label)[:count]
        if not len(chosen) or not len(train_rows):
            continue
        nearest, distance = _nearest(synthetic.features[chosen], train.features)
        shown[name] = [
            {"sample_id": release.sample_ids[i], "row": int(train_rows[j]), "distance": round(float(d), 4)}
            for i, j, d in zip(chosen, nearest, distance, strict=True)
        ]
    return shown


def _nearest(queries: npt.NDArray[np.float32], points: npt.NDArray[np.float32]) -> tuple[Ints, Floats]:
    """Return each query's nearest point and its distance, block by block so that memory stays bounded."""
    best = np.full(len(queries), np.inf)
    index = np.zeros(len(queries), dtype=np.int64)
    wide = queries.astype(np.float64)
    for start in range(0, len(points), _BLOCK_ROWS):
        block = points[start : start + _BLOCK_ROWS].astype(np.float64)
        squared = np.square(wide).sum(1)[:, None] + np.square(block).sum(1)[None] - 2.0 * wide @ block.T
        here = squared.argmin(axis=1)
        value = squared[np.arange(len(queries)), here]
        closer = value < best
        best[closer], index[closer] = value[closer], here[closer] + start
    return index, np.sqrt(best.clip(min=0.0))
