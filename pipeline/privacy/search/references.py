"""The real images that candidates are compared with: all of train, and the holdout as the control."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from pipeline.arrays import Bools, Ints
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.pixels import StoredPixels, to_model_range
from pipeline.errors import DataError
from pipeline.privacy.settings import AuditSettings

MAX_FOLDS = 16


@dataclass(frozen=True)
class References:
    """Real images of train and holdout, train first.

    Attributes:
        images: (M, 1, h, w) float32 in [-1, 1] at the search size.
        rows: (M,) cohort rows.
        labels: (M,) class codes.
        patients: (M,) patient codes, equal for images of one patient.
        in_train: (M,) whether the image was trained on.
        groups: (M,) fold of the image: 0..J-1 for train folds of about the holdout's size, J for the holdout.
            Shortlists take the same number from each, so that train and holdout are searched in the same way.
        tuning: (M,) holdout images of the patients that thresholds are tuned on; the other holdout images are
            fresh.
    """

    images: torch.Tensor
    rows: Ints
    labels: Ints
    patients: Ints
    in_train: Bools
    groups: Ints
    tuning: Bools

    @property
    def num_folds(self) -> int:
        """Number of train folds J."""
        return int(self.groups.max())

    @property
    def holdout_share(self) -> float:
        """Probability that the nearest real patient is of the holdout if the generator favours neither side.

        The smaller of the share of images and the share of patients. The tests look for too few holdout
        neighbours, so the smaller share errs towards passing a generator that copies nothing.
        """
        images = 1.0 - float(self.in_train.mean())
        held = len(np.unique(self.patients[~self.in_train]))
        return min(images, held / len(np.unique(self.patients)))

    def places(self, rows: Ints) -> Ints:
        """Return the positions (n,) of cohort rows, all of train or holdout."""
        order = np.argsort(self.rows)
        found: Ints = order[np.searchsorted(self.rows, rows, sorter=order)]
        return found

    def counts(self) -> dict[str, int]:
        """Return images and patients of each side, for the report."""
        out: dict[str, int] = {}
        fresh = ~self.in_train & ~self.tuning
        sides = {"train": self.in_train, "holdout": ~self.in_train, "tuning": self.tuning, "fresh": fresh}
        for name, chosen in sides.items():
            out[f"{name}_images"] = int(chosen.sum())
            out[f"{name}_patients"] = len(np.unique(self.patients[chosen]))
        return out


def load_references(cohort: Cohort, settings: AuditSettings, rng: np.random.Generator) -> References:
    """Read train and holdout, split train into folds and the holdout into halves by patient.

    Raises:
        DataError: train has fewer than two images, or the holdout fewer than two patients.
    """
    train, holdout = cohort.rows("train"), cohort.rows("holdout")
    rows = np.concatenate([train, holdout])
    names = cohort.records()["patient_id"].to_numpy()[rows]
    patients = np.unique(names.astype(str), return_inverse=True)[1].astype(np.int64)
    held = np.unique(patients[len(train) :])
    if len(train) < 2 or len(held) < 2:
        raise DataError(
            "the gate needs at least 2 train images and 2 holdout patients to compare with",
            field="cohort",
            value=f"{len(train)} train images, {len(held)} holdout patients",
            remedy="Ingest more patients or raise ingest.holdout_share.",
        )
    num_folds = int(np.clip(round(len(train) / len(holdout)), 1, MAX_FOLDS))
    groups = np.full(len(rows), num_folds, dtype=np.int64)
    trained = rng.permutation(np.unique(patients[: len(train)]))
    fold_of = np.empty(patients.max() + 1, dtype=np.int64)
    fold_of[trained] = np.arange(len(trained)) % num_folds
    groups[: len(train)] = fold_of[patients[: len(train)]]
    in_train = np.arange(len(rows)) < len(train)
    chosen = rng.permutation(held)[: (len(held) + 1) // 2]
    return References(
        images=search_images(cohort.take, rows, settings.search_size),
        rows=rows,
        labels=np.asarray(cohort.labels)[rows].astype(np.int64),
        patients=patients,
        in_train=in_train,
        groups=groups,
        tuning=~in_train & np.isin(patients, chosen),
    )


def search_images(
    take: Callable[[Ints], StoredPixels], rows: Ints, search_size: int, *, block: int = 2048
) -> torch.Tensor:
    """Read rows in blocks and area-average them to a longest side of at most `search_size`.

    Returns:
        (n, 1, h, w) float32 in [-1, 1].
    """
    parts = [shrink(take(rows[i : i + block]), search_size) for i in range(0, len(rows), block)]
    return torch.cat(parts)


def shrink(pixels: StoredPixels, search_size: int) -> torch.Tensor:
    """Map stored (n, 1, H, W) pixels to [-1, 1] at the search size."""
    images = torch.from_numpy(to_model_range(pixels))
    height, width = images.shape[-2:]
    longest = max(height, width)
    if longest <= search_size:
        return images
    size = (max(1, round(height * search_size / longest)), max(1, round(width * search_size / longest)))
    return F.interpolate(images, size=size, mode="area")
