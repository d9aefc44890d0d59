"""Candidate sets with known truth: fresh drawings, and copies of train in disguises made by other code."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import ndimage

from pipeline.artifacts.candidates import CANDIDATE_COLUMNS, sample_id, write_candidate_table
from pipeline.artifacts.pixels import write_shard
from pipeline.config import Settings
from pipeline.privacy.settings import AuditSettings
from pipeline.records import CandidatesRef
from pipeline.stage import open_stage
from pipeline.storage import digest_of
from tests.cohorts import CLASSES, draw

Pixels = npt.NDArray[np.uint8]

QUICK = AuditSettings(
    embedding_steps=40,
    embedding_batch=96,
    rotations=(0.0,),
    planted_per_kind=12,
    control_scans=100,
    power_draws=20,
    null_draws=2_000,
    min_holdout_patients=20,
)
CHECKPOINT_DIGEST = "c" * 64


class _SampleSettings(Settings):
    per_class: int


def fresh(count: int, seed: int, size: int = 32) -> tuple[Pixels, npt.NDArray[np.int64]]:
    """Return drawings that no cohort holds, and their classes: what a healthy generator makes."""
    rng = np.random.default_rng([seed, 77])
    labels = np.arange(count) % len(CLASSES)
    return np.stack([draw(int(label), size, rng) for label in labels])[:, None], labels


def disguised(images: Pixels, kind: str) -> Pixels:
    """Disguise copies with other code than the gate's own planting uses (scipy, not torch)."""
    flat = images[:, 0].astype(np.float64)
    out = {
        "exact": lambda: flat,
        "mirrored": lambda: flat[:, :, ::-1],
        "gamma": lambda: 255 * (flat / 255) ** 0.7,
        "shifted": lambda: ndimage.shift(flat, (0, 2, -2), order=0, mode="nearest"),
        "resampled": lambda: np.stack([_zoom(image, 1.05) for image in flat]),
    }[kind]()
    return np.clip(np.rint(out), 0, 255).astype(np.uint8)[:, None]


def _zoom(image: npt.NDArray[np.float64], factor: float) -> npt.NDArray[np.float64]:
    middle = (np.array(image.shape) - 1) / 2
    return ndimage.affine_transform(
        image, np.eye(2) / factor, offset=middle - middle / factor, order=1, mode="nearest"
    )


KINDS = ("exact", "mirrored", "gamma", "shifted", "resampled")


def write_candidates(
    folder: Path,
    pixels: Pixels,
    labels: npt.NDArray[np.integer],
    *,
    per_class: int,
    classes: tuple[str, ...] = CLASSES,
    checkpoint_digest: str = CHECKPOINT_DIGEST,
) -> CandidatesRef:
    """Write a finished candidates directory as `sample` would."""
    inputs = {"pixels": digest_of(pixels.tobytes().hex())}
    settings = _SampleSettings(per_class=per_class)
    with open_stage(CandidatesRef, folder, inputs=inputs, settings=settings, seed=0) as stage:
        assert stage.finished is None
        rows, numbers = [], dict.fromkeys(range(len(classes)), 0)
        for label in labels.tolist():
            name, index = classes[label], numbers[label]
            numbers[label] += 1
            made_by = ("heun", 8, 1.0, checkpoint_digest)
            rows.append((sample_id(name, index), name, label, index, 1000 + index, *made_by))
        table = pd.DataFrame(rows, columns=list(CANDIDATE_COLUMNS))
        table["seed"] = table["seed"].astype("Int64")
        files = [write_candidate_table(folder, table), write_shard(folder, 0, pixels)]
        return stage.finish(files, {"candidates": len(labels)})
