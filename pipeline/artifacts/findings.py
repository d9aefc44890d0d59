"""Findings of images as numbers: 1 present, 0 absent, NaN unknown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Floats, Ints
from pipeline.artifacts.cohort import Cohort, CohortInfo

UNCERTAIN = 2
"""Code of a finding that is uncertain, in `findings.npy`."""


def real_findings(cohort: Cohort, rows: Ints) -> Floats:
    """Return the findings (n, K) of scans; an uncertain one is unknown."""
    codes = cohort.findings()[rows].astype(np.float64)
    return np.where(codes == UNCERTAIN, np.nan, codes)


def requested_findings(
    info: CohortInfo, labels: npt.NDArray[np.integer], columns: Mapping[str, Sequence[Any]]
) -> Floats:
    """Return the findings (n, K) that synthetic images were requested to show.

    Where a finding was not requested, only the class tells: an image of the finding's own class shows it, and
    an image of a class that is no finding shows none of the findings that are classes. Whether it is in an
    image of another finding's class is unknown.

    Args:
        info: description of the cohort, with its findings.
        labels: (n,) class of each image.
        columns: finding -> 1, 0 or None of each image.
    """
    found = np.full((len(labels), len(info.findings)), np.nan)
    names = np.array(info.classes)[labels] if len(labels) else np.empty(0, dtype=str)
    healthy = ~np.isin(names, info.findings)
    for column, finding in enumerate(info.findings):
        if finding in info.classes:
            found[healthy, column] = 0.0
        found[names == finding, column] = 1.0
        for row, value in enumerate(columns.get(finding, ())):
            if value is not None:
                found[row, column] = float(value)
    return found
