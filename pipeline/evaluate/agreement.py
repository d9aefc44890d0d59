"""Label agreement: does a classifier that never saw a synthetic image read in it what it was made to show?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pipeline.arrays import Ints
from pipeline.artifacts.evaluation_report import Estimate
from pipeline.evaluate.intervals import binomial
from pipeline.evaluate.truth import Targets


def label_agreement(read: Ints, intended: Targets, names: Sequence[str]) -> dict[str, Estimate]:
    """Return, for each class or finding that occurs, the share of its images that are read as it.

    Args:
        read: what the classifier reads: (n,) the most probable class, or (n, K) findings, 0 or 1.
        intended: what was requested of the generator.
        names: classes or findings by index.

    Returns:
        Name -> share with its interval.
    """
    found: dict[str, Estimate] = {}
    for place, name in enumerate(names):
        if intended.ndim == 1:
            right = read[intended == place] == place
        else:
            right = read[intended[:, place] == 1, place] == 1
        if len(right):
            found[name] = binomial(int(right.sum()), len(right))
    return found


def shuffled_agreement(
    read: Ints, intended: Targets, names: Sequence[str], rng: np.random.Generator
) -> dict[str, Estimate]:
    """Return the agreement with the intended labels permuted among the images: the control."""
    return label_agreement(read, rng.permutation(intended), names)
