"""The result of one attack on the audit patients, in the form of the report."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipeline.arrays import Bools, Floats, Ints
from pipeline.artifacts.privacy_report import MembershipResult
from pipeline.privacy.membership.measures import (
    auc,
    epsilon_lower_bound,
    hits_at_low_error,
    patient_scores,
    permutation_p,
)
from pipeline.privacy.membership.settings import MembershipSettings
from pipeline.wording.power import noticeable_auc


@dataclass(frozen=True)
class Audited:
    """The audit patients' scans: patient codes (n,), and whether the coin assigned them to train (n,)."""

    patients: Ints
    members: Bools

    def members_halved(self, rng: np.random.Generator) -> Audited:
        """Return the members' scans alone, with a random half of their patients as non-members."""
        patients = self.patients[self.members]
        known = rng.permutation(np.unique(patients))
        return Audited(patients, np.isin(patients, known[: len(known) // 2]))


def attack_result(
    attack: str,
    scores: Floats,
    audited: Audited,
    settings: MembershipSettings,
    rng: np.random.Generator,
    *,
    level: float,
) -> MembershipResult:
    """Measure how well scores (n,) of scans separate members from others, by the mean score per patient.

    `level` is the significance level, corrected for the number of simultaneous attacks, at which the
    detectable AUC is computed.
    """
    by_patient, inside = patient_scores(scores, audited.patients, audited.members)
    hits = hits_at_low_error(by_patient, inside, draws=settings.resamples, rng=rng)
    bound = epsilon_lower_bound(by_patient, inside)
    members, others = int(inside.sum()), int((~inside).sum())
    return MembershipResult(
        attack=attack,
        members=members,
        non_members=others,
        auc=round(auc(by_patient, inside), 6),
        noticeable_auc=round(noticeable_auc(members, others, significance=level), 6),
        hit_rate=hits.value,
        hit_rate_interval=(hits.low, hits.high),
        p_value=permutation_p(by_patient, inside, draws=settings.permutations, rng=rng),
        adjusted_p_value=None,
        passed=None,
        epsilon_lower_bound=round(bound.epsilon, 4),
        guesses=bound.guesses,
        correct=bound.correct,
    )
