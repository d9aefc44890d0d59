"""Label agreement: does a classifier that never saw a synthetic image predict the intended class?"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.evaluation_report import Estimate
from pipeline.evaluate.intervals import binomial


def label_agreement(
    predicted: npt.NDArray[np.integer], intended: npt.NDArray[np.integer], classes: Sequence[str]
) -> dict[str, Estimate]:
    """Return, for each class that occurs, the share of its images that are predicted as it, with interval.

    Args:
        predicted: (n,) most probable class by the classifier.
        intended: (n,) class that was requested of the generator.
        classes: class names by index.
    """
    found: dict[str, Estimate] = {}
    for label, name in enumerate(classes):
        read = predicted[intended == label]
        if len(read):
            found[name] = binomial(int((read == label).sum()), len(read))
    return found


def shuffled_agreement(
    predicted: npt.NDArray[np.integer],
    intended: npt.NDArray[np.integer],
    classes: Sequence[str],
    rng: np.random.Generator,
) -> dict[str, Estimate]:
    """Return the agreement with the intended classes permuted among the images: the control."""
    return label_agreement(predicted, rng.permutation(intended), classes)
