"""Subgroups of scans and synthetic images: combinations of attributes, such as sex and view."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pipeline.arrays import Bools, Ints
from pipeline.artifacts.cohort import UNKNOWN, Cohort

Attributes = Mapping[str, Sequence[str | None]]
"""Attribute -> value that was requested of each synthetic image, or None."""

UNKNOWN_GROUP = -1


def subgroup_codes(cohort: Cohort, rows: Ints, requested: Attributes) -> tuple[Ints, Ints] | None:
    """Return the subgroup of each scan (n,) and of each synthetic image (m,), by the requested attributes.

    An image without a known value of one of them is in `UNKNOWN_GROUP`.

    Args:
        cohort: the cohort of the scans.
        rows: rows of the scans.
        requested: attributes that the generator was conditioned on.

    Returns:
        The codes; None if the generator was conditioned on no attribute of the cohort.
    """
    names = [name for name in cohort.attribute_names if any(requested.get(name, ()))]
    if not names:
        return None
    stored = cohort.attributes()[rows]
    real = np.zeros(len(rows), dtype=np.int64)
    made = np.zeros(len(requested[names[0]]), dtype=np.int64)
    for name in names:
        position = {value: code for code, value in enumerate(cohort.info.attributes[name])}
        codes = stored[:, cohort.attribute_names.index(name)].astype(np.int64)
        asked = np.array([position.get(str(value), UNKNOWN) for value in requested[name]], dtype=np.int64)
        real, made = (_joined(*pair) for pair in ((real, codes), (made, asked)))
    return real, made


def _joined(groups: Ints, codes: Ints) -> Ints:
    unknown = (groups == UNKNOWN_GROUP) | (codes == UNKNOWN)
    return np.where(unknown, UNKNOWN_GROUP, groups * UNKNOWN + codes)


def masks(cohort: Cohort, rows: Ints) -> dict[str, Bools]:
    """Return subgroup in words, such as `sex F` -> whether each scan (n,) is in it, by single attributes."""
    if not cohort.attribute_names:
        return {}
    stored = cohort.attributes()[rows]
    return {
        f"{name} {value}": stored[:, column] == code
        for column, name in enumerate(cohort.attribute_names)
        for code, value in enumerate(cohort.info.attributes[name])
    }
