"""`privacy_report.json`: what the gate measured and concluded, in aggregates only."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline.artifacts.guarantee import DifferentialPrivacy
from pipeline.config import read_model
from pipeline.errors import TamperedError
from pipeline.records import Verdict

REPORT_NAME = "privacy_report.json"
COPY_COUNT = "copy_count"
"""Name of the tests that count candidates which stand out; the others ask on which side they lie."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassVerdict(_Part):
    """The gate's conclusion for one class.

    Attributes:
        asked: images asked for (of a foreign generator's: those that pass, one at least); candidates: images
            drawn; accepted: images that may be released (trimmed to `asked`, lowest indices first);
            rejected: by reason, over all candidates of the class.
        short: asked - accepted where positive.
        power: chance that any test which can fail the class notices the planted share, by simulation; None
            where it was not simulated.
    """

    verdict: Verdict
    asked: int = Field(ge=0)
    candidates: int = Field(ge=0)
    accepted: int = Field(ge=0)
    short: int = Field(ge=0)
    rejected: dict[str, int]
    reasons: tuple[str, ...] = ()
    power: float | None = Field(default=None, ge=0, le=1)


class Needed(_Part):
    """What it would take to notice the planted share, from the design of the copy count.

    Attributes:
        planted_share: share of copies that is to be noticed; chance: with which.
        candidates: how many are enough with the real scans of this audit; None if no number is.
        real_scans: how many are enough with the candidates of this audit; None if no number is.
        together: how many candidates with how many real scans are, where either alone is not and both grow
            alike; None if no number is, or one alone is.
        compared: real scans in this audit.
        stands_out: share of the planted copies that stand out farther than real scans, in the view in which
            most do.
    """

    planted_share: float = Field(gt=0, lt=1)
    chance: float = Field(gt=0, le=1)
    candidates: int | None = Field(ge=1)
    real_scans: int | None = Field(ge=1)
    together: tuple[int, int] | None = None
    compared: int = Field(ge=0)
    stands_out: float = Field(ge=0, le=1)


class TestResult(_Part):
    """One statistical test over the candidate set (or one class of it).

    Attributes:
        name: for example `sign_test`; view: for example `correlation`; scope: `pooled` or a class.
        statistic, null_value: the measured and expected value; p_value, adjusted_p_value (Holm).
        power: chance to detect the planted-copy share named in `power_against` at this n, by simulation.
        passed: None where the test could not be run; `note` says why.
    """

    __test__ = False

    name: str
    view: str
    scope: str
    num_samples: int = Field(ge=0)
    statistic: float | None
    null_value: float | None
    p_value: float | None = Field(ge=0, le=1)
    adjusted_p_value: float | None = Field(ge=0, le=1)
    power: float | None = Field(ge=0, le=1)
    power_against: str = ""
    passed: bool | None
    note: str = ""


class MembershipResult(_Part):
    """How well one attack tells audit patients of train from those of the holdout, by patient.

    Attributes:
        attack: `loss`, `sima`, `pia`, `combined` (with access to the model), `release_...` (without), or
            `control_untrained`, `control_members`, which must find nothing.
        members, non_members: patients on either side.
        auc: chance that a member scores higher than a non-member; noticeable_auc: from which value on this
            many patients fail the attack, its p-value corrected for all attacks alike, with a chance of 80 %.
        hit_rate: share of members found where at most 1 % of non-members are taken for members;
            hit_rate_interval: its 95 % interval (bootstrap over patients).
        p_value: chance of so large an AUC had the coins fallen otherwise; adjusted_p_value (Holm).
        passed: whether nothing was told apart; None for a control.
        epsilon_lower_bound: one-run lower bound (Steinke et al. 2023) at 95 %, from `correct` of `guesses`.
    """

    attack: str
    members: int = Field(ge=0)
    non_members: int = Field(ge=0)
    auc: float = Field(ge=0, le=1)
    noticeable_auc: float = Field(ge=0, le=1)
    hit_rate: float = Field(ge=0, le=1)
    hit_rate_interval: tuple[float, float]
    p_value: float = Field(ge=0, le=1)
    adjusted_p_value: float | None = Field(ge=0, le=1)
    passed: bool | None
    epsilon_lower_bound: float = Field(ge=0)
    guesses: int = Field(ge=0)
    correct: int = Field(ge=0)


class AttackRisk(_Part):
    """How much better an attack with the release does on train patients than on others (Giomi et al. 2023).

    Attributes:
        name: `linkability` (tie two halves of one scan to each other) or `attribute_inference` (guess its
            class).
        attacked, controls: scans of train, and of the holdout.
        success, control_success: share of each for which the attack succeeds, at the classes of train.
        risk: (success - control_success) / (1 - control_success); interval: its 95 % interval.
    """

    name: str
    attacked: int = Field(ge=0)
    controls: int = Field(ge=0)
    success: float = Field(ge=0, le=1)
    control_success: float = Field(ge=0, le=1)
    risk: float
    interval: tuple[float, float]


class Threshold(_Part):
    """A rejection threshold of one view and what it costs.

    Attributes:
        value: the threshold on the view's statistic; rule: what is compared with it.
        false_reject_rate: share of fresh real holdout scans (not those it was tuned on) that it rejects.
        interval: 95 % interval of that share (Clopper-Pearson); num_fresh: scans behind it.
    """

    view: str
    rule: str
    value: float | None
    false_reject_rate: float | None = Field(ge=0, le=1)
    interval: tuple[float, float] | None
    num_fresh: int = Field(ge=0)


class EarlierRelease(_Part):
    """A release of the same patients that was counted in.

    Attributes:
        digest: of the release; images: in it.
        checkpoint_digest: of the generator that drew them (empty if foreign).
        same_cohort: whether it was made from this very cohort, and not from an earlier state of it.
        epsilon, delta: what its generator's training guarantees, None without a guarantee.
    """

    digest: str
    images: int = Field(ge=1)
    checkpoint_digest: str
    same_cohort: bool
    epsilon: float | None = Field(ge=0)
    delta: float | None = Field(gt=0, lt=1)


class PrivacyReport(_Part):
    """Aggregates of an audit; it may be copied into a release.

    Attributes:
        verdict: the worst class decides; reasons: in words, worst first, then signs short of failing.
        policy_note: what the verdict allows.
        cohort_digest, candidates_digest, checkpoint_digest: what was audited (checkpoint empty if foreign).
        has_patient_ids: if False the verdict is capped at INCONCLUSIVE.
        needed: what it would take to notice the planted share; None where that was not worked out.
        reference_counts: images and patients of train and holdout that were compared.
        false_reject_budget, false_reject_rate: the total budget, and the share of fresh holdout rejected by
            all rules together, with interval.
        planted: recall on copies planted from this cohort, by kind ({kind: {recall, low, high, n}}).
        planted_strengths: family of disguises that differ in strength alone -> kind -> strength, in the unit
            that the kind names.
        membership: attacks on the audit patients, with controls; membership_note: why none were made.
        checkpoint_verdict: whether membership inference speaks against sharing the checkpoint itself; None if
            it was not attacked; checkpoint_reasons: in words.
        differential_privacy: what the checkpoint's training guarantees; None without a guarantee, or where no
            checkpoint was named.
        attack_risks: linkability and attribute inference, which decide nothing.
        earlier_releases: what was added to the audited images where membership and these risks were measured.
        not_covered: what was not tested, in words.
        settings: the audit settings used.
    """

    format_version: Literal[1] = 1
    verdict: Verdict
    reasons: tuple[str, ...]
    policy_note: str
    cohort_digest: str
    candidates_digest: str
    checkpoint_digest: str
    has_patient_ids: bool
    classes: dict[str, ClassVerdict]
    tests: tuple[TestResult, ...]
    needed: Needed | None = None
    thresholds: tuple[Threshold, ...]
    reference_counts: dict[str, int]
    false_reject_budget: float
    false_reject_rate: float | None
    false_reject_interval: tuple[float, float] | None
    planted: dict[str, dict[str, float]]
    planted_strengths: dict[str, dict[str, float]] = {}
    membership: tuple[MembershipResult, ...] = ()
    membership_note: str = ""
    checkpoint_verdict: Verdict | None = None
    checkpoint_reasons: tuple[str, ...] = ()
    differential_privacy: DifferentialPrivacy | None = None
    attack_risks: tuple[AttackRisk, ...] = ()
    earlier_releases: tuple[EarlierRelease, ...] = ()
    not_covered: tuple[str, ...]
    settings: dict[str, Any]

    @property
    def joint_guarantee(self) -> tuple[float, float] | None:
        """(epsilon, delta) of all generators together by basic composition; None if one has no guarantee.

        A generator counts once, however many releases were drawn from it.
        """
        own = self.differential_privacy
        spent = {self.checkpoint_digest: None if own is None else (own.epsilon, own.delta)}
        for part in self.earlier_releases:
            given = part.epsilon is not None and part.delta is not None
            spent[part.checkpoint_digest] = (part.epsilon, part.delta) if given else None  # type: ignore[assignment]
        parts = list(spent.values())
        if any(part is None for part in parts):
            return None
        return sum(part[0] for part in parts if part), sum(part[1] for part in parts if part)

    @property
    def earlier_words(self) -> str:
        """One sentence on what was counted in; empty if nothing was."""
        if not self.earlier_releases:
            return ""
        images, count = sum(part.images for part in self.earlier_releases), len(self.earlier_releases)
        said = (
            f"{count} earlier release{'s' if count > 1 else ''} of these patients ({images} images) counted "
            "in where it was asked what tells who was trained on"
        )
        joint = self.joint_guarantee
        if joint is not None:
            said += f"; the generators of all of them together guarantee epsilon {joint[0]:.2f}, "
            said += f"delta {joint[1]:.1e} (basic composition)"
        elif self.differential_privacy is not None:
            said += "; one of them was drawn without a guarantee, so that there is none for all together"
        return said


def read_privacy_report(folder: Path) -> PrivacyReport:
    """Read the report of an audit or a release.

    Raises:
        TamperedError: fields are missing, unknown, or out of range.
    """
    return read_model(
        PrivacyReport,
        folder / REPORT_NAME,
        role="audit",
        remedy="Run the audit again; nothing was released.",
        error=TamperedError,
    )
