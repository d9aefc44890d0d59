"""The attack on a checkpoint: scores the audit patients' scans to infer the result of each coin flip."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from models.diffusion.denoiser import Denoiser
from models.privacy.membership import ATTACKS, attack_scores
from pipeline.arrays import Bools, Floats, Ints
from pipeline.artifacts.cohort import Cohort
from pipeline.privacy.membership.calibration import Describer, QuantileCalibration
from pipeline.privacy.membership.settings import MembershipSettings
from pipeline.privacy.partial_results import Halfway
from pipeline.progress import track

Read = Callable[[Ints], tuple[torch.Tensor, torch.Tensor]]
"""rows -> training inputs of the denoiser (n, C, H, W), and condition codes (n, F), on its device."""

COMBINED = "combined"
KNOWN_FOR_EACH, LEAST_CAP = 4, 100
"""Known scans of each side per audited scan, and the number below which they are not reduced."""
PRIOR = 0.5
"""Strength of the prior on the weights of the combined score."""


@dataclass(frozen=True)
class Groups:
    """Rows of the cohort by their role in the attack.

    Attributes:
        inside: scans of audit patients whom the coin assigned to train.
        outside: scans of audit patients whom the coin assigned to the holdout.
        known_inside: scans of other patients of train, from which the attacker learns, up to a cap.
        known_outside: scans of other patients of the holdout, from which the attacker learns, up to a cap.
    """

    inside: Ints
    outside: Ints
    known_inside: Ints
    known_outside: Ints

    @property
    def every(self) -> Ints:
        """All rows, in ascending order."""
        parts = [self.inside, self.outside, self.known_inside, self.known_outside]
        return np.unique(np.concatenate(parts))

    @property
    def audited(self) -> Ints:
        """Rows of all audit patients, members first."""
        return np.concatenate([self.inside, self.outside])

    def learning_from(self, known: int) -> Groups:
        """Return the same groups with at most `known` known scans on each side, evenly spaced."""

        def some(rows: Ints) -> Ints:
            places = np.linspace(0, len(rows) - 1, min(known, len(rows))).round().astype(np.int64)
            return rows[places]

        return replace(self, known_inside=some(self.known_inside), known_outside=some(self.known_outside))


def audit_groups(cohort: Cohort, cap: int, rng: np.random.Generator) -> Groups:
    """Return the scans that are attacked and the scans that the attack learns from.

    A known scan costs as much as an audited one. With few audited scans, chance dominates the result, and
    more known scans do not improve it: `KNOWN_FOR_EACH` known scans per audited scan are enough.
    """
    roles = cohort.records()["audit"].to_numpy()
    train, holdout = cohort.rows("train"), cohort.rows("holdout")

    inside, outside = train[roles[train] == "in"], holdout[roles[holdout] == "out"]
    cap = min(cap, max(LEAST_CAP, KNOWN_FOR_EACH * (len(inside) + len(outside))))

    def some(rows: Ints) -> Ints:
        chosen: Ints = np.sort(rng.permutation(rows)[:cap])
        return chosen

    return Groups(
        inside=inside,
        outside=outside,
        known_inside=some(train[roles[train] == ""]),
        known_outside=some(holdout[roles[holdout] == ""]),
    )


@dataclass(frozen=True)
class Scores:
    """Scores of cohort rows by one kind of access.

    Attributes:
        rows: (n,) cohort rows, in ascending order.
        values: (n, columns) scores, higher for likelier members.
        attacks: name of the attack -> its columns (for example one per noise level).
    """

    rows: Ints
    values: Floats
    attacks: Mapping[str, Sequence[int]]

    def of(self, rows: Ints) -> Floats:
        """Return the scores of some of the rows."""
        found: Floats = self.values[np.searchsorted(self.rows, rows)]
        return found


@torch.no_grad()
def checkpoint_scores(
    denoiser: Denoiser,
    rows: Ints,
    read: Read,
    settings: MembershipSettings,
    *,
    title: str,
    halfway: Halfway | None = None,
) -> Scores:
    """Score cohort rows (rising) by every attack on a denoiser.

    `title` names the progress bar, and what `halfway` keeps.
    """
    halfway = halfway or Halfway()
    with track(title, len(rows), unit="scans") as progress:

        def scored(first: int, last: int) -> Floats:
            part = rows[first:last]
            found: Floats = attack_scores(denoiser, *read(part), settings.sigmas).flatten(1).numpy()
            progress.update(len(part))
            return found

        values = halfway.values(_file_name(title), len(rows), settings.batch_size, scored)
    levels = len(settings.sigmas)
    columns = {name: range(i * levels, (i + 1) * levels) for i, name in enumerate(ATTACKS)}
    return Scores(rows, values, columns)


def _file_name(title: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in title)


class Attacker:
    """Learns from known members and non-members how to use the scores, and applies this to other scans.

    Each score is calibrated on one half of the known non-members. The combined score is a weighted sum of all
    calibrated scores (on an arcsinh scale, on which no single score dominates). The weights are learned from
    the known members and the other half of the non-members.

    Args:
        cohort: the cohort.
        groups: groups whose known rows are used to learn.
        scores: scores of all rows of the groups.
        rng: random generator that halves the known non-members.
    """

    def __init__(self, cohort: Cohort, groups: Groups, scores: Scores, rng: np.random.Generator) -> None:
        self._cohort, self._all = cohort, scores
        mixed = rng.permutation(groups.known_outside)
        first, second = mixed[: (len(mixed) + 1) // 2], mixed[(len(mixed) + 1) // 2 :]
        self._describer = Describer(cohort.images(first), len(cohort.info.classes))
        described, own = self._described(first), scores.of(first)
        self._calibrations = [QuantileCalibration(described, own[:, i]) for i in range(own.shape[1])]
        rows = np.concatenate([groups.known_inside, second])
        told = np.arange(len(rows)) < len(groups.known_inside)
        self._weights = member_weights(self.calibrated(rows), told)

    def calibrated(self, rows: Ints) -> Floats:
        """Return calibrated scores (n, columns)."""
        described, own = self._described(rows), self._all.of(rows)
        columns = [calibrate(described, own[:, i]) for i, calibrate in enumerate(self._calibrations)]
        return np.stack(columns, axis=1)

    def by_attack(self, rows: Ints) -> dict[str, Floats]:
        """Return one score (n,) per attack, the mean over its columns, and the combined score."""
        calibrated = self.calibrated(rows)
        means = {name: calibrated[:, list(own)].mean(axis=1) for name, own in self._all.attacks.items()}
        return means | {COMBINED: np.arcsinh(calibrated) @ self._weights}

    def _described(self, rows: Ints) -> Floats:
        return self._describer(self._cohort.images(rows), self._cohort.labels[rows].astype(np.int64))


def member_weights(calibrated: Floats, members: Bools) -> Floats:
    """Return weights (columns,) of calibrated scores (n, columns) that separate known members from others.

    Logistic regression with non-negative weights, because each score is higher for likelier members, and a
    Gaussian prior around equal weights. If the known members are uninformative, the result is the mean.
    """
    from scipy.optimize import minimize

    scores = np.arcsinh(calibrated)
    columns = scores.shape[1]
    equal = np.full(columns, 1.0 / columns)
    sides = np.where(members, 1.0, -1.0)
    # Both sides have the same total weight.
    share = np.where(members, 0.5 / members.sum(), 0.5 / (~members).sum())

    def loss(point: Floats) -> tuple[float, Floats]:
        weights, offset = point[:-1], point[-1]
        margin = sides * (scores @ weights + offset)
        push = -sides * share / (1.0 + np.exp(np.clip(margin, -500, 500)))
        away = weights - equal
        value = float(share @ np.logaddexp(0.0, -margin) + PRIOR * away @ away)
        return value, np.append(scores.T @ push + 2 * PRIOR * away, push.sum())

    start = np.append(equal, 0.0)
    bounds = [(0.0, None)] * columns + [(None, None)]
    found: Floats = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds).x[:-1]
    return found
