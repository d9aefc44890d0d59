"""Nearest real images of train and of the holdout, searched alike: what every view comes down to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from pipeline.privacy.references import Bools, Ints

Floats = npt.NDArray[np.float64]

NO_PATIENT = -1
FLOOR = 1e-3
"""Distances below this count as this: finer differences are rounding, and the logarithm stays finite."""
FARTHEST = 2.0
"""Distance of images that may not be matched (an image's own patient): 1 - (-1)."""


@dataclass(frozen=True)
class Neighbours:
    """Nearest real images of n queries in one view; distances are 1 - similarity, in [FLOOR, FARTHEST].

    Attributes:
        train: (n,) distance to the nearest train image; train_row its position in the references.
        holdout: (n,) distance to the nearest holdout image.
        rest: (n,) distance to the nearest image of any other patient than that of `train_row`.
        folds: (n, J) distance to the nearest image of each train fold (each about the holdout's size).
        gap: (n,) log distance of the nearest patient minus that of the second nearest, of either side; very
            negative where one patient stands out as the source.
        side: (n,) whether the nearest patient is in train; patient: (n,) its code.
    """

    train: Floats
    train_row: Ints
    holdout: Floats
    rest: Floats
    folds: Floats
    gap: Floats
    side: Bools
    patient: Ints

    def take(self, rows: Ints | Bools | slice) -> Neighbours:
        """Return the neighbours of some queries."""
        return Neighbours(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


class Sides:
    """Which reference is whose: keeps the search of train and holdout alike.

    Args:
        patients: (M,) patient codes of the references.
        in_train: (M,) whether each was trained on.
        groups: (M,) fold of each, 0..J-1 for train folds of about the holdout's size and J for the holdout.
        shortlist: references of each fold that are looked at closely.
        device: where similarities are computed; what is found lies on the CPU.
    """

    def __init__(
        self,
        patients: Ints,
        in_train: Bools,
        groups: Ints,
        *,
        shortlist: int,
        device: torch.device | None = None,
    ) -> None:
        self.patients, self.in_train, self.groups = patients, in_train, groups
        self.num_folds = int(groups.max())
        self._wanted, self._codes = shortlist, torch.from_numpy(patients).to(device)
        folds = torch.from_numpy(groups).to(device)
        self._columns = [torch.nonzero(folds == g).flatten() for g in range(self.num_folds + 1)]

    def barred(self, own: torch.Tensor) -> torch.Tensor:
        """Return (n, M) which references are of a query's own patient (n,), NO_PATIENT for none."""
        return own[:, None] == self._codes[None, :]

    def shortlist(
        self, similarity: torch.Tensor, barred: torch.Tensor, wanted: int | None = None
    ) -> torch.Tensor:
        """Return the rows (n, k) of the most similar references, `wanted` of each fold and of the holdout."""
        allowed, count = similarity.masked_fill(barred, -FARTHEST), wanted or self._wanted
        picks = [c[allowed[:, c].topk(min(count, len(c)), dim=1).indices] for c in self._columns]
        return torch.cat(picks, dim=1)

    def nearest(self, similarity: torch.Tensor, pairs: torch.Tensor, barred: torch.Tensor) -> Neighbours:
        """Return the neighbours among the listed references.

        Args:
            similarity: (n, k) in [-1, 1], of each query with its listed references.
            pairs: (n, k) their rows.
            barred: (n, M) as of `barred`.
        """
        measured = (1.0 - similarity.double()).clamp(FLOOR, FARTHEST)
        distance: Floats = measured.masked_fill(barred.gather(1, pairs), FARTHEST).cpu().numpy()
        rows = pairs.cpu().numpy()
        here = np.arange(len(rows))
        in_train, patients, groups = self.in_train[rows], self.patients[rows], self.groups[rows]

        def nearest_of(chosen: Bools) -> Floats:
            return np.where(chosen, distance, FARTHEST)

        train = nearest_of(in_train)
        best_train = train.argmin(axis=1)
        other = patients != patients[here, best_train][:, None]
        best = distance.argmin(axis=1)
        patient = patients[here, best]
        second = nearest_of(patients != patient[:, None]).min(axis=1)
        folds = [nearest_of(groups == fold).min(axis=1) for fold in range(self.num_folds)]
        return Neighbours(
            train=train[here, best_train],
            train_row=rows[here, best_train].astype(np.int64),
            holdout=nearest_of(~in_train).min(axis=1),
            rest=nearest_of(other).min(axis=1),
            folds=np.stack(folds, axis=1),
            gap=np.log(distance[here, best]) - np.log(second),
            side=in_train[here, best],
            patient=patient,
        )

    def of_similarity(self, similarity: torch.Tensor, own: torch.Tensor) -> Neighbours:
        """Return the neighbours by a similarity (n, M) in [-1, 1] with every reference."""
        barred = self.barred(own)
        pairs = self.shortlist(similarity, barred)
        return self.nearest(similarity.gather(1, pairs), pairs, barred)


def nearest_features(
    queries: torch.Tensor, references: torch.Tensor, sides: Sides, own: torch.Tensor
) -> Neighbours:
    """Return the neighbours of unit vectors (n, d) among unit vectors (M, d), by cosine.

    Memory is a block of queries times the references, whatever their number; `own` (n,) is as of `barred`.
    """
    block = search_block(len(references))
    parts = [
        sides.of_similarity(queries[first : first + block] @ references.T, own[first : first + block])
        for first in range(0, len(queries), block)
    ]
    return join(parts)


def search_block(num_references: int) -> int:
    """Return how many queries are held against so many references at a time."""
    return int(np.clip(2**24 // max(1, num_references), 8, 512))


def join(parts: list[Neighbours]) -> Neighbours:
    """Return the neighbours of all queries, those of one part after those of another."""
    names = Neighbours.__dataclass_fields__
    return Neighbours(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})
