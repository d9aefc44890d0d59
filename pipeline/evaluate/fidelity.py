"""Fidelity: how far released images lie from real val scans, beside how far real train scans lie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.evaluation_report import Fidelity
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.statistics import fid, kid


@dataclass(frozen=True)
class FeatureSet:
    """Features of one set of images.

    Attributes:
        features: (n, d) of one encoder.
        labels: (n,) class of each image.
        groups: (n,) patient of each image (its own number for a synthetic one).
    """

    features: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    groups: npt.NDArray[np.int64]

    def take(self, rows: npt.NDArray[np.int64]) -> FeatureSet:
        """Return the images at `rows`."""
        return FeatureSet(self.features[rows], self.labels[rows], self.groups[rows])


@dataclass(frozen=True)
class Scope:
    """What is compared in one scope, at equal sizes of synthetic and train.

    Attributes:
        name: `all` or a class.
        synthetic, train, val: the features drawn for it.
    """

    name: str
    synthetic: FeatureSet
    train: FeatureSet
    val: FeatureSet


def measure_fidelity(
    synthetic: FeatureSet,
    val: FeatureSet,
    train: FeatureSet,
    classes: tuple[str, ...],
    *,
    settings: EvaluateSettings,
    rng: np.random.Generator,
) -> tuple[tuple[Fidelity, ...], list[str]]:
    """Compare released images with real val scans, over all and by class; see `draw_scopes`.

    Returns:
        One `Fidelity` a scope that can be measured (`all` first), and notes on those that cannot.
    """
    scopes, notes = draw_scopes(synthetic, val, train, classes, settings=settings, rng=rng)
    return tuple(_measured(scope) for scope in scopes), notes


def draw_scopes(
    synthetic: FeatureSet,
    val: FeatureSet,
    train: FeatureSet,
    classes: tuple[str, ...],
    *,
    settings: EvaluateSettings,
    rng: np.random.Generator,
) -> tuple[list[Scope], list[str]]:
    """Draw what is compared in each scope.

    In each scope as many synthetic as train images are drawn, so that both stand at equal sizes against the
    same val scans; over all classes they are drawn in val's class mix, so that a balanced release is not
    taken for an unlike one.

    Returns:
        The scopes that can be measured (`all` first), and notes on those that cannot.
    """
    notes: list[str] = []
    limit = settings.max_fidelity_images
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
    left, floor, right = scope.synthetic, scope.train, scope.val
    return Fidelity(
        scope=scope.name,
        kid=kid(left.features, right.features, x_groups=left.groups, y_groups=right.groups),
        kid_floor=kid(floor.features, right.features, x_groups=floor.groups, y_groups=right.groups),
        fid=fid(left.features, right.features),
        fid_floor=fid(floor.features, right.features),
        num_synthetic=len(left.labels),
        num_real=len(right.labels),
    )


def _draw(rows: npt.NDArray[np.int64], count: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    return np.sort(rng.permutation(rows)[:count])
