"""The gate per candidate: one false-reject budget for all views and rules, tuned on real holdout scans."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pipeline.arrays import Bools, Floats, Ints
from pipeline.privacy.search.neighbours import Neighbours
from pipeline.privacy.search.views import BLEND, REDRAWN, REDRAWN_PARTS, VIEWS, Found

ISOLATION = "isolation"
RULES = {
    "correlation": ("ratio", ISOLATION, "absolute"),
    "embedding": ("ratio", ISOLATION, "absolute"),
    # Half an image resembles halves of other patients: only a patient that stands out is informative.
    "halves": (ISOLATION,),
    # A part of the joint rule: its distance is designed for images that a model noised and denoised.
    "components": (ISOLATION,),
}
JOINT = "joint"
JOINT_WEIGHTS = {("components", ISOLATION): 1.0, (REDRAWN, "spacing"): 1.0, (REDRAWN, "likelihood"): 2.0}
"""Weights of the sum that detects train images which a model noised and denoised. Each statistic is on the
common scale, and none of them rejects alone."""
JOINT_SHARE = 2.0
"""Factor on the joint rule's scores. A sum of several statistics has a lighter tail than each of them, so it
would get little of the budget on the common scale; and copies made image-to-image from noise as large as the
spread of the data are the hardest to detect."""
MANY_TUNING = 300
"""Number of tuning images at which the joint rule gets the full factor. With few, the threshold depends on
two or three of them, and the joint rule's share would make the other rules miss plain copies."""
SCALE_QUANTILE = 0.25
LEAST_SCALE = 1e-3


def rule_statistics(neighbours: Neighbours) -> dict[str, Floats]:
    """Return each rule's statistic, (n,) each; the smaller it is, the more copy-like the image.

    - `ratio`: log distance to train minus log distance to the holdout, which is the control.
    - `isolation`: log distance to the nearest train image minus that to the nearest image of any other
      patient of either side; a source stands out from all other patients even in dense regions.
    - `absolute`: log distance to train.
    """
    train = np.log(neighbours.train)
    return {
        "ratio": train - np.log(neighbours.holdout),
        ISOLATION: train - np.log(neighbours.rest),
        "absolute": train,
    }


def all_statistics(found: Found) -> dict[tuple[str, str], Floats]:
    """Return (view, rule) -> statistic (n,) of every single rule, and of the parts of the joint rule."""
    statistics: dict[tuple[str, str], Floats] = {}
    for view in VIEWS:
        own = rule_statistics(found.views[view])
        statistics |= {(view, name): own[name] for name in RULES[view]}
    parts = {(REDRAWN, name): found.redrawn[:, place] for place, name in enumerate(REDRAWN_PARTS)}
    return statistics | {(BLEND, ISOLATION): found.blend} | parts


@dataclass(frozen=True)
class Rule:
    """One rule of one view, on a common scale: score = (statistic - centre) / scale; small is copy-like."""

    view: str
    name: str
    centre: float
    scale: float

    def scores(self, statistic: Floats) -> Floats:
        """Return the scores of a statistic."""
        scored: Floats = (statistic - self.centre) / self.scale
        return scored

    def threshold(self, score: float) -> float:
        """Return the statistic that corresponds to `score`: the rule rejects images below it."""
        return self.centre + score * self.scale


@dataclass(frozen=True)
class Calibration:
    """The rules and the common score below which an image is rejected.

    A common score gives all rules one budget: the lowest score over the rules is a single statistic, and its
    conformal quantile on the tuning holdout bounds the false rejects of all rules together (split conformal
    prediction, Vovk et al. 2005).

    Attributes:
        rules: rules that each reject by themselves.
        parts: rules whose scores are summed to the statistic of the joint rule.
        score: score below which an image is rejected.
    """

    rules: tuple[Rule, ...]
    parts: tuple[Rule, ...]
    score: float

    def scores(self, found: Found) -> Floats:
        """Return (n, number of rules) scores."""
        statistics = self.statistics(found)
        return np.stack([rule.scores(statistics[rule.view, rule.name]) for rule in self.rules], axis=1)

    def statistics(self, found: Found) -> dict[tuple[str, str], Floats]:
        """Return (view, rule) -> statistic (n,) of every rule, including the joint rule."""
        statistics = all_statistics(found)
        return statistics | {(REDRAWN, JOINT): joint_statistic(statistics, self.parts)}

    def rejects(self, found: Found) -> tuple[Bools, Ints]:
        """Return which images are rejected, and the index of the rule with the lowest score."""
        scores = self.scores(found)
        return scores.min(axis=1) < self.score, scores.argmin(axis=1).astype(np.int64)


def calibrate(tuning: Found, share: float, hashed: Bools) -> Calibration:
    """Tune the rules on holdout images of tuning patients.

    With fewer than about 1 / share images, not even one of them may be rejected. The rules then reject only
    images that are more extreme than every tuning image.

    Args:
        tuning: search results of n tuning images, their own patients excluded.
        share: share of the tuning images that all rules together may reject.
        hashed: (n,) images that the hash rules reject already; they count in the budget.
    """
    statistics = all_statistics(tuning)
    single = {key: _rule(key, values) for key, values in statistics.items()}
    parts = tuple(single[key] for key in JOINT_WEIGHTS)
    joint = _rule((REDRAWN, JOINT), joint_statistic(statistics, parts))
    joint = replace(joint, scale=joint.scale / joint_share(len(hashed)))
    rules = (*(rule for key, rule in single.items() if key not in JOINT_WEIGHTS), joint)
    unset = Calibration(rules, parts, 0.0)
    lowest = np.where(hashed, -np.inf, unset.scores(tuning).min(axis=1))
    # A fresh image falls below the k-th smallest of n with probability k / (n + 1).
    k = max(1, int(np.floor(share * (len(lowest) + 1))))
    score = float(np.sort(lowest)[k - 1])
    return Calibration(rules, parts, score if np.isfinite(score) else float(np.min(lowest[~hashed])))


def joint_statistic(statistics: dict[tuple[str, str], Floats], parts: tuple[Rule, ...]) -> Floats:
    """Return the weighted sum (n,) of the scores of the parts, which carry different evidence."""
    weights = JOINT_WEIGHTS.values()
    scored = [
        weight * rule.scores(statistics[rule.view, rule.name])
        for weight, rule in zip(weights, parts, strict=True)
    ]
    total: Floats = np.sum(scored, axis=0)
    return total


def joint_share(num_tuning: int) -> float:
    """Return the factor on the joint rule's scores for this number of tuning images."""
    return 1.0 + (JOINT_SHARE - 1.0) * min(num_tuning / MANY_TUNING, 1.0)


def _rule(key: tuple[str, str], values: Floats) -> Rule:
    """Return a rule on the common scale, fitted to its statistic (n,) of the tuning images."""
    centre = float(np.median(values))
    return Rule(*key, centre, max(centre - float(np.quantile(values, SCALE_QUANTILE)), LEAST_SCALE))
