"""Nearest real images of train and holdout, searched in the same way; every view returns them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch

from models.devices import choices, to_device
from models.privacy.tiled_matmul import rows_at_once
from pipeline.arrays import Bools, Floats, Ints

NO_PATIENT = -1
FLOOR = 1e-3
"""Smallest distance: finer differences are rounding errors, and the logarithm stays finite."""
FARTHEST = 2.0
"""Distance of excluded images (those of an image's own patient): 1 - (-1)."""


@dataclass(frozen=True)
class Neighbours:
    """Nearest real images of n queries in one view; distances are 1 - similarity, in [FLOOR, FARTHEST].

    Attributes:
        train: (n,) distance to the nearest train image.
        train_row: (n,) position of that image in the references.
        holdout: (n,) distance to the nearest holdout image.
        rest: (n,) distance to the nearest image of any patient other than that of `train_row`.
        folds: (n, J) distance to the nearest image of each train fold (each about the size of the holdout).
        gap: (n,) log distance of the nearest patient minus that of the second nearest, of either side; very
            negative if one patient stands out as the source.
        side: (n,) whether the nearest patient is in train.
        patient: (n,) code of the nearest patient.
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


@dataclass(frozen=True)
class Nearest:
    """Search results of n queries in one view, on the device; distances have the device's widest type.

    `train`, `train_row`, `holdout`, `rest`, `folds`, `side` and `patient` are as in `Neighbours`.

    Attributes:
        first: (n,) distance to the nearest patient.
        second: (n,) distance to the second nearest patient.
    """

    train: torch.Tensor
    train_row: torch.Tensor
    holdout: torch.Tensor
    rest: torch.Tensor
    folds: torch.Tensor
    first: torch.Tensor
    second: torch.Tensor
    side: torch.Tensor
    patient: torch.Tensor

    def neighbours(self) -> Neighbours:
        """Return the results on the host, which waits for the device to finish the search."""
        here = {each.name: getattr(self, each.name).cpu() for each in fields(self)}
        found = {
            name: (one.double() if one.is_floating_point() else one).numpy() for name, one in here.items()
        }
        gap = np.log(found.pop("first")) - np.log(found.pop("second"))
        return Neighbours(**found, gap=gap)


class Sides:
    """Patient, side and fold of every reference; searches train and holdout in the same way.

    Args:
        patients: (M,) patient codes of the references.
        in_train: (M,) whether each was trained on.
        groups: (M,) fold of each: 0..J-1 for train folds of about the holdout's size, J for the holdout.
        shortlist: references of each fold that are compared closely.
        device: device of the similarities and of the results; None is the CPU.
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
        self._device, self._wanted = device or torch.device("cpu"), shortlist
        self._patients, self._groups = self._placed(patients), self._placed(groups)
        self._in_train = self._placed(in_train)
        num_folds = int(groups.max())
        self._folds = torch.arange(num_folds, device=self._device)
        self._columns = [self._placed(np.flatnonzero(groups == fold)) for fold in range(num_folds + 1)]

    def _placed(self, values: Ints | Bools) -> torch.Tensor:
        return to_device(torch.from_numpy(values), self._device)

    def barred(self, own: torch.Tensor) -> torch.Tensor:
        """Return (n, M) whether a reference is of a query's own patient (n,), NO_PATIENT for none."""
        return own[:, None] == self._patients[None, :]

    def shortlist(
        self, similarity: torch.Tensor, barred: torch.Tensor, wanted: int | None = None
    ) -> torch.Tensor:
        """Return the rows (n, k) of the most similar references, `wanted` of each fold and of the holdout."""
        allowed, count = similarity.masked_fill(barred, -FARTHEST), wanted or self._wanted
        picks = [c[allowed[:, c].topk(min(count, len(c)), dim=1).indices] for c in self._columns]
        return torch.cat(picks, dim=1)

    def nearest(self, similarity: torch.Tensor, pairs: torch.Tensor, barred: torch.Tensor) -> Nearest:
        """Return the neighbours among the listed references; ties go to the first one in the list.

        Args:
            similarity: (n, k) similarity in [-1, 1] of each query with its listed references.
            pairs: (n, k) rows of the listed references.
            barred: (n, M) excluded references, as returned by `barred`.
        """
        wide = similarity.to(choices(self._device).wide)
        distance = (1.0 - wide).clamp(FLOOR, FARTHEST).masked_fill(barred.gather(1, pairs), FARTHEST)
        in_train, patients, groups = self._in_train[pairs], self._patients[pairs], self._groups[pairs]

        def only(chosen: torch.Tensor) -> torch.Tensor:
            return distance.masked_fill(~chosen, FARTHEST)

        train = only(in_train)
        best_train, best = (values.argmin(dim=1, keepdim=True) for values in (train, distance))
        patient = patients.gather(1, best)
        in_fold = groups[:, None, :] == self._folds[:, None]
        return Nearest(
            train=train.gather(1, best_train)[:, 0],
            train_row=pairs.gather(1, best_train)[:, 0],
            holdout=only(~in_train).amin(dim=1),
            rest=only(patients != patients.gather(1, best_train)).amin(dim=1),
            folds=distance[:, None, :].masked_fill(~in_fold, FARTHEST).amin(dim=2),
            first=distance.gather(1, best)[:, 0],
            second=only(patients != patient).amin(dim=1),
            side=in_train.gather(1, best)[:, 0],
            patient=patient[:, 0],
        )

    def of_similarity(self, similarity: torch.Tensor, own: torch.Tensor) -> Nearest:
        """Return the neighbours by a similarity (n, M) in [-1, 1] with every reference."""
        barred = self.barred(own)
        pairs = self.shortlist(similarity, barred)
        return self.nearest(similarity.gather(1, pairs), pairs, barred)


def nearest_features(
    queries: torch.Tensor, references: torch.Tensor, sides: Sides, own: torch.Tensor
) -> Nearest:
    """Return the neighbours of unit vectors (n, d) among unit vectors (M, d) by cosine similarity.

    Memory is a block of queries times the references; `own` (n,) is as in `Sides.barred`.
    """
    block = search_block(references)
    parts = [
        sides.of_similarity(queries[first : first + block] @ references.T, own[first : first + block])
        for first in range(0, len(queries), block)
    ]
    return join_nearest(parts)


def search_block(references: torch.Tensor) -> int:
    """Return how many queries are compared with these references (M, ...) at a time."""
    on_cpu = int(np.clip(2**24 // max(1, len(references)), 8, 512))
    # Enough for a few tables of queries by references, or for warped copies of a query.
    each = 8 * max(len(references), references[:1].numel())
    return rows_at_once(each, references.device, on_cpu=on_cpu)


def join_nearest(parts: Sequence[Nearest]) -> Nearest:
    """Return the concatenated search results of all parts."""
    names = [each.name for each in fields(Nearest)]
    return Nearest(**{name: torch.cat([getattr(part, name) for part in parts]) for name in names})


def join(parts: list[Neighbours]) -> Neighbours:
    """Return the concatenated neighbours of all parts."""
    names = Neighbours.__dataclass_fields__
    return Neighbours(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})
