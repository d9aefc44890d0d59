"""Scans that do not look like the others of their class: negatives, and wrong views or body parts."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Bools, Floats, Ints

INVERTED_CORRELATION = -0.3
"""Correlation with the mean signature below which a scan counts as a negative. Lowest of 5,856 paediatric
chest radiographs: 0.09; of 2,000 chests and 2,000 hands of another set: -0.12 and -0.23. Of their negatives,
99.6, 98.8 and 97.5 % lie below."""

MIN_SCANS = 16
"""Fewer scans have no common look to compare with."""

MIN_SCANS_OUTLIERS = 100
UNLIKE_SCORE = 4.0
"""Robust z score of the log distance from which a scan is unlike the rest."""

_KEPT_SHARE = 0.9
_ROUNDS = 4
_BLOCK = 1024


def inverted(signatures: npt.NDArray[np.int8]) -> Bools:
    """Return (N,) True for the signatures of one class that look like negatives of their mean.

    A signature is linear in the picture but for its length, so a negative has the opposite signature.

    Args:
        signatures: (N, D) int8; below `MIN_SCANS` rows nothing is flagged.
    """
    flags = np.zeros(len(signatures), dtype=bool)
    judged = np.flatnonzero(signatures.any(axis=1))
    total = signatures[judged].sum(axis=0, dtype=np.int64).astype(np.float64)
    length = np.linalg.norm(total)
    if len(judged) < MIN_SCANS or length == 0:
        return flags
    for start in range(0, len(judged), _BLOCK):
        rows = judged[start : start + _BLOCK]
        values = signatures[rows].astype(np.float64)
        cosine = values @ (total / length) / np.linalg.norm(values, axis=1)
        flags[rows] = cosine < INVERTED_CORRELATION
    return flags


def unlike_the_rest(signatures: npt.NDArray[np.int8]) -> Bools:
    """Return (N,) True for the signatures of one class that lie far from the others.

    The distance is Mahalanobis's, with mean and covariance of the nine tenths that lie closest, found in
    rounds (concentration steps: Rousseeuw and Van Driessen, Technometrics 1999), so that up to a tenth of
    strange scans cannot make themselves normal. The covariance shrinks towards a multiple of the identity,
    more so with fewer scans.

    Args:
        signatures: (N, D) int8; below `MIN_SCANS_OUTLIERS` rows nothing is flagged.
    """
    count, length = signatures.shape
    flags = np.zeros(count, dtype=bool)
    judged = np.flatnonzero(signatures.any(axis=1))
    if len(judged) < MIN_SCANS_OUTLIERS:
        return flags
    # Column by column, as the median of all at once would copy everything to eight times the size.
    middle = np.array([np.median(signatures[judged, column]) for column in range(length)])
    distance = _distances(signatures, judged, middle, np.eye(length))
    shrink = min(1.0, 0.05 + 20.0 / len(judged))
    for _ in range(_ROUNDS):
        near = judged[distance <= np.quantile(distance, _KEPT_SHARE)]
        mean, covariance = _moments(signatures, near)
        even = np.eye(length) * np.trace(covariance) / length
        precise = np.linalg.inv((1 - shrink) * covariance + shrink * even + 1e-9 * np.eye(length))
        distance = _distances(signatures, judged, mean, precise)
    z = np.log(np.maximum(distance, 1e-9))
    median = np.median(z)
    spread = 1.4826 * np.median(np.abs(z - median))
    flags[judged] = z > median + UNLIKE_SCORE * max(float(spread), 0.05)
    return flags


def _moments(signatures: npt.NDArray[np.int8], rows: Ints) -> tuple[Floats, Floats]:
    """Mean and covariance by blocks; the sums are whole numbers, so their order does not matter."""
    length = signatures.shape[1]
    total, products = np.zeros(length), np.zeros((length, length))
    for start in range(0, len(rows), _BLOCK):
        values = signatures[rows[start : start + _BLOCK]].astype(np.float64)
        total += values.sum(axis=0)
        products += values.T @ values
    mean = total / len(rows)
    return mean, products / len(rows) - np.outer(mean, mean)


def _distances(
    signatures: npt.NDArray[np.int8],
    rows: Ints,
    middle: Floats,
    precise: Floats,
) -> Floats:
    found = np.empty(len(rows))
    for start in range(0, len(rows), _BLOCK):
        values = signatures[rows[start : start + _BLOCK]] - middle
        found[start : start + _BLOCK] = np.sqrt(np.maximum(((values @ precise) * values).sum(axis=1), 0.0))
    return found
