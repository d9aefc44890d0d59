"""Frequencies of the combinations of conditions in the train split, without those of few patients."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.conditions import CohortConditions

MAX_CODES = 60_000
"""Largest number of codes in a table: 4,000 combinations of 15 fields, about 300 kB of JSON."""


class Combination(BaseModel):
    """Combination of conditions in the train split (aggregated, private).

    Attributes:
        label: class index.
        codes: code of each condition field; the null code if the field is unknown or suppressed.
        scans: number of train scans with this combination.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    label: int = Field(ge=0)
    codes: tuple[int, ...]
    scans: int = Field(ge=1)


def count_combinations(
    cohort: Cohort, conditions: CohortConditions, *, min_patients: int
) -> tuple[Combination, ...]:
    """Return the combinations of conditions of the train split, most frequent first within each class.

    A combination of few patients can identify one of them (a woman over 90 with three findings), and a
    dataset sampled from it would reveal that such a patient is in the train split. So the attributes of scans
    with a rare combination are suppressed one by one, the attribute with the most values first, until enough
    patients share the remaining combination. A combination that is rare by its findings alone is left out.

    Args:
        cohort: the cohort.
        conditions: condition fields of the cohort.
        min_patients: smallest number of patients that must share a combination.

    Raises:
        DataError: the cohort does not say which scans are of one patient.
    """
    if not conditions.fields:
        return ()
    rows = cohort.rows("train")
    patients = np.asarray(cohort.patients()[rows], dtype=np.int64)
    codes = conditions.codes(rows)
    attributes = [place for place, field in enumerate(conditions.fields) if not field.is_finding]
    for place in sorted(attributes, key=lambda place: (-len(conditions.fields[place].values), -place)):
        rare = _sharing_patients(codes, patients) < min_patients
        codes[rare, place + 1] = conditions.fields[place].null_code
    kept = codes[_sharing_patients(codes, patients) >= min_patients]
    return _most_frequent(kept, len(cohort.info.classes))


def _sharing_patients(codes: npt.NDArray[np.int64], patients: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Return, for each scan, the number of patients who have a scan with the same codes (N,)."""
    if not len(codes):
        return np.empty(0, dtype=np.int64)
    _, group = np.unique(codes, axis=0, return_inverse=True)
    group = group.reshape(-1).astype(np.int64)
    pairs = np.unique(np.stack([group, patients], axis=1), axis=0)
    return np.bincount(pairs[:, 0], minlength=int(group.max()) + 1)[group]


def _most_frequent(codes: npt.NDArray[np.int64], num_classes: int) -> tuple[Combination, ...]:
    if not len(codes):
        return ()
    found, scans = np.unique(codes, axis=0, return_counts=True)
    # Sorted by class and then by count; `unique` has sorted by codes, which a stable sort keeps for ties.
    order = np.lexsort((-scans, found[:, 0]))
    limit = max(1, MAX_CODES // codes.shape[1] // num_classes)
    taken = dict.fromkeys(range(num_classes), 0)
    kept: list[Combination] = []
    for place in order:
        label, *rest = (int(code) for code in found[place])
        if taken[label] < limit:
            taken[label] += 1
            kept.append(Combination(label=label, codes=tuple(rest), scans=int(scans[place])))
    return tuple(kept)
