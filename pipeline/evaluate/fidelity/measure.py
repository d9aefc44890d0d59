"""Fidelity: distance of released images from real val scans, next to that of real train scans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.evaluation_report import Estimate, Fidelity, Figure
from pipeline.evaluate.fidelity.distances import fid, kid, mean_ratio

MAX_IMAGES = 5_000
"""Largest number of images per side and scope; the memory of KID and FID grows with its square."""


@dataclass(frozen=True)
class FeatureSet:
    """Features of one set of images.

    Attributes:
        features: (n, d) of one encoder.
        labels: (n,) class of each image.
        groups: (n,) patient of each image (its own number for a synthetic one).
        power: (n, octaves) power of each image by octave of spatial frequency, the finest first.
    """

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]
    power: npt.NDArray[np.float32]

    def take(self, rows: npt.NDArray[np.int64]) -> FeatureSet:
        """Return the images at `rows`."""
        return FeatureSet(self.features[rows], self.labels[rows], self.groups[rows], self.power[rows])


@dataclass(frozen=True)
class Scope:
    """Sets of images to compare in one scope, with equal numbers of synthetic and train images.

    Attributes:
        name: `all` or a class.
        synthetic: features of the synthetic images.
        train: features of the train scans.
        val: features of the val scans.
    """

    name: str
    synthetic: FeatureSet
    train: FeatureSet
    val: FeatureSet


def _kid(x: FeatureSet, y: FeatureSet) -> Estimate:
    return kid(x.features, y.features, x_groups=x.groups, y_groups=y.groups)


def _fid(x: FeatureSet, y: FeatureSet) -> float:
    return fid(x.features, y.features)


def _detail(x: FeatureSet, y: FeatureSet) -> Estimate | None:
    return mean_ratio(x.power[:, 0], y.power[:, 0], x_groups=x.groups, y_groups=y.groups)


METRICS: dict[str, Callable[[FeatureSet, FeatureSet], Figure]] = {
    "kid": _kid,
    "fid": _fid,
    "detail_power": _detail,
}
"""Name in an evaluation -> comparison of two sets of images: a number, with an interval if it has one.

KID and FID are distances. `detail_power` is the power of the finest octave of spatial frequency over that of
the other set: below 1, images are blurred; above 1, they have noise.

In every scope it is measured between the synthetic images and the val scans and, as `<name>_floor`, between
train scans and the same val scans. Every page shows both."""


def measure_fidelity(
    synthetic: FeatureSet,
    val: FeatureSet,
    train: FeatureSet,
    classes: tuple[str, ...],
    *,
    rng: np.random.Generator,
) -> tuple[tuple[Fidelity, ...], list[str]]:
    """Compare released images with real val scans, over all classes and per class; see `draw_scopes`.

    Returns:
        One `Fidelity` per scope that can be measured (`all` first), and notes on those that cannot.
    """
    scopes, notes = draw_scopes(synthetic, val, train, classes, rng=rng)
    return tuple(_measured(scope) for scope in scopes), notes


def draw_scopes(
    synthetic: FeatureSet,
    val: FeatureSet,
    train: FeatureSet,
    classes: tuple[str, ...],
    *,
    rng: np.random.Generator,
) -> tuple[list[Scope], list[str]]:
    """Draw the images to compare in each scope.

    Each scope has equal numbers of synthetic and train images, which are compared with the same val scans.
    Over all classes, both are drawn in the class proportions of val, so that a balanced release does not look
    dissimilar only because of its class proportions.

    Returns:
        The scopes that can be measured (`all` first), and notes on those that cannot.
    """
    notes: list[str] = []
    limit = MAX_IMAGES
    pools = [
        (
            np.flatnonzero(synthetic.labels == k),
            np.flatnonzero(train.labels == k),
            np.flatnonzero(val.labels == k),
        )
        for k in range(len(classes))
    ]
    present = [pool for pool in pools if len(pool[0]) and len(pool[1]) and len(pool[2])]
    scopes: list[tuple[str, npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]] = []
    if present:
        num_val = sum(len(pool[2]) for pool in present)
        share = min(min(len(s), len(t)) / len(v) for s, t, v in present)
        share = min(share, limit / num_val)
        counts = [max(int(share * len(pool[2])), 1) for pool in present]
        everyone = np.sort(np.concatenate([pool[2] for pool in present]))
        scopes.append(
            (
                "all",
                np.concatenate([_draw(pool[0], n, rng) for pool, n in zip(present, counts, strict=True)]),
                np.concatenate([_draw(pool[1], n, rng) for pool, n in zip(present, counts, strict=True)]),
                _draw(everyone, min(limit, len(everyone)), rng),
            )
        )
    for name, (s, t, v) in zip(classes, pools, strict=True):
        n = min(len(s), len(t), limit)
        if min(n, len(v)) < 2:
            notes.append(f"fidelity of {name} is not measured: fewer than 2 released, train or val images")
            continue
        scopes.append((name, _draw(s, n, rng), _draw(t, n, rng), _draw(v, min(len(v), limit), rng)))
    drawn = [
        Scope(name, synthetic.take(s), train.take(t), val.take(v))
        for name, s, t, v in scopes
        if min(len(s), len(v)) >= 2
    ]
    return drawn, notes


def _measured(scope: Scope) -> Fidelity:
    found: dict[str, Any] = {}
    for name, distance in METRICS.items():
        found[name] = distance(scope.synthetic, scope.val)
        found[f"{name}_floor"] = distance(scope.train, scope.val)
    return Fidelity(
        scope=scope.name,
        num_synthetic=len(scope.synthetic.labels),
        num_real=len(scope.val.labels),
        **found,
    )


def _draw(rows: npt.NDArray[np.int64], count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    return np.sort(rng.permutation(rows)[:count])
