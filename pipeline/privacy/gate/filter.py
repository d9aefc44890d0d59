"""The gate per candidate: one false-reject budget over all views and rules, tuned on real holdout."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pipeline.privacy.search.neighbours import Floats, Neighbours
from pipeline.privacy.search.references import Bools, Ints
from pipeline.privacy.search.views import BLEND, REDRAWN, REDRAWN_PARTS, VIEWS, Found

ISOLATION = "isolation"
RULES = {
    "correlation": ("ratio", ISOLATION, "absolute"),
    "embedding": ("ratio", ISOLATION, "absolute"),
    # Half an image resembles halves of strangers: only that one patient stands out says something.
    "halves": (ISOLATION,),
    # A part of the joint rule: its measure of distance is made for what a model noised and drew anew.
    "components": (ISOLATION,),
}
JOINT = "joint"
JOINT_WEIGHTS = {("components", ISOLATION): 1.0, (REDRAWN, "spacing"): 1.0, (REDRAWN, "likelihood"): 2.0}
"""What is summed to tell that a model noised and denoised a train image, each on the common scale; none of
them rejects alone."""
JOINT_SHARE = 2.0
"""A sum of several statistics has a lighter tail than any: on the common scale it would get little of the
budget, and image to image from noise as large as the data's own spread is the hardest copy of all to see."""
MANY_TUNING = 300
"""Tuning images from which the joint rule gets all of that. With few, the threshold rests on two or three of
them, and what the joint rule takes would cost the others their plain copies."""
SCALE_QUANTILE = 0.25
LEAST_SCALE = 1e-3


def rule_statistics(neighbours: Neighbours) -> dict[str, Floats]:
    """Return each rule's statistic, (n,) each; the smaller, the more the image looks like a copy of train.

    - `ratio`: log distance to train minus log distance to the holdout, the control of the same kind.
    - `isolation`: log distance to the nearest train image minus that to the nearest image of any other
      patient of either side: a source stands out from all others even in dense regions.
    - `absolute`: log distance to train.
    """
    train = np.log(neighbours.train)
    return {
        "ratio": train - np.log(neighbours.holdout),
        ISOLATION: train - np.log(neighbours.rest),
        "absolute": train,
    }


def all_statistics(found: Found) -> dict[tuple[str, str], Floats]:
    """Return (view, rule) -> statistic (n,) of every rule of the gate, and of the parts of the joint one."""
    statistics: dict[tuple[str, str], Floats] = {}
    for view in VIEWS:
        own = rule_statistics(found.views[view])
        statistics |= {(view, name): own[name] for name in RULES[view]}
    parts = {(REDRAWN, name): found.redrawn[:, place] for place, name in enumerate(REDRAWN_PARTS)}
    return statistics | {(BLEND, ISOLATION): found.blend} | parts


@dataclass(frozen=True)
class Rule:
    """One rule of one view on a common scale: score = (statistic - centre) / scale, small = copy-like."""

    view: str
    name: str
    centre: float
    scale: float

    def scores(self, statistic: Floats) -> Floats:
        """Return the scores of a statistic."""
        scored: Floats = (statistic - self.centre) / self.scale
        return scored

    def threshold(self, score: float) -> float:
        """Return the statistic below which this rule rejects when scores below `score` are rejected."""
        return self.centre + score * self.scale


@dataclass(frozen=True)
class Calibration:
    """The rules and the single score below which an image is rejected.

    One score for all rules makes one budget: the lowest score over the rules is a single statistic, and its
    conformal quantile on tuning holdout bounds the false rejects of all rules together (split conformal
    prediction, Vovk et al. 2005).

    Attributes:
        rules: each rejects by itself; parts: those whose scores make the statistic of the joint one.
        score: below it an image is rejected.
    """

    rules: tuple[Rule, ...]
    parts: tuple[Rule, ...]
    score: float

    def scores(self, found: Found) -> Floats:
        """Return (n, number of rules) scores."""
        statistics = self.statistics(found)
        return np.stack([rule.scores(statistics[rule.view, rule.name]) for rule in self.rules], axis=1)

    def statistics(self, found: Found) -> dict[tuple[str, str], Floats]:
        """Return (view, rule) -> statistic (n,) of every rule, the joint one too."""
        statistics = all_statistics(found)
        return statistics | {(REDRAWN, JOINT): joint_statistic(statistics, self.parts)}

    def rejects(self, found: Found) -> tuple[Bools, Ints]:
        """Return which images are rejected, and the position of the rule that speaks most strongly."""
        scores = self.scores(found)
        return scores.min(axis=1) < self.score, scores.argmin(axis=1).astype(np.int64)


def calibrate(tuning: Found, share: float, hashed: Bools) -> Calibration:
    """Tune the rules on holdout images of tuning patients.

    Args:
        tuning: what was found about n tuning images, their own patients left out.
        share: share of them that all rules together may reject.
        hashed: (n,) which the hash rules reject already: they are part of the budget.

    Below about 1 / share images not even one may be rejected: then only what is more extreme than every
    tuning image is.
    """
    statistics = all_statistics(tuning)
    single = {key: _rule(key, values) for key, values in statistics.items()}
    parts = tuple(single[key] for key in JOINT_WEIGHTS)
    joint = _rule((REDRAWN, JOINT), joint_statistic(statistics, parts))
    joint = replace(joint, scale=joint.scale / joint_share(len(hashed)))
    rules = (*(rule for key, rule in single.items() if key not in JOINT_WEIGHTS), joint)
    unset = Calibration(rules, parts, 0.0)
    lowest = np.where(hashed, -np.inf, unset.scores(tuning).min(axis=1))
    # The k-th smallest of n has a chance of k / (n + 1) that a fresh image falls below it.
    k = max(1, int(np.floor(share * (len(lowest) + 1))))
    score = float(np.sort(lowest)[k - 1])
    return Calibration(rules, parts, score if np.isfinite(score) else float(np.min(lowest[~hashed])))


def joint_statistic(statistics: dict[tuple[str, str], Floats], parts: tuple[Rule, ...]) -> Floats:
    """Return the weighted sum (n,) of the scores of the parts: evidence of each that the others lack."""
    weights = JOINT_WEIGHTS.values()
    scored = [
        weight * rule.scores(statistics[rule.view, rule.name])
        for weight, rule in zip(weights, parts, strict=True)
    ]
    total: Floats = np.sum(scored, axis=0)
    return total


def joint_share(num_tuning: int) -> float:
    """Return by how much the joint rule's scores are raised, with so many tuning images."""
    return 1.0 + (JOINT_SHARE - 1.0) * min(num_tuning / MANY_TUNING, 1.0)


def _rule(key: tuple[str, str], values: Floats) -> Rule:
    """Return a rule on the common scale, by its statistic of tuning images."""
    centre = float(np.median(values))
    return Rule(*key, centre, max(centre - float(np.quantile(values, SCALE_QUANTILE)), LEAST_SCALE))


def clopper_pearson(hits: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact two-sided interval of a share (Clopper and Pearson 1934)."""
    from scipy.stats import beta

    tail = (1 - level) / 2
    low = 0.0 if hits == 0 else float(beta.ppf(tail, hits, total - hits + 1))
    high = 1.0 if hits == total else float(beta.ppf(1 - tail, hits + 1, total - hits))
    return low, high
