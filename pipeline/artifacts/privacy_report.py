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
"""Name of the tests that count candidates which stand out; the other tests compare their sides."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ClassVerdict(_Part):
    """The gate's conclusion for one class.

    Attributes:
        verdict: verdict of the class.
        asked: requested number of images (for another generator: those that pass, at least one).
        candidates: number of candidates.
        accepted: images that may be released (trimmed to `asked`, lowest indices first).
        short: asked - accepted if positive, else 0.
        rejected: reason -> number of candidates, over all candidates of the class.
        reasons: reasons of the verdict, in words.
        power: simulated probability that any test which can fail the class detects the planted share; None if
            it was not simulated.
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
    """Numbers of candidates or real scans that would be enough to detect the planted share by the copy count.

    Attributes:
        planted_share: share of copies to detect.
        chance: required probability of detection.
        candidates: number that is enough with the real scans of this audit; None if no number is.
        real_scans: number that is enough with the candidates of this audit; None if no number is.
        together: (candidates, real scans) that are enough if neither alone is and both grow in proportion;
            None if no numbers are, or one alone is.
        compared: number of real scans in this audit.
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
        name: for example `sign_test`.
        view: for example `correlation`.
        scope: `pooled` or a class.
        num_samples: number of candidates or patients in the test.
        statistic: observed value.
        null_value: expected value under the null hypothesis.
        p_value: p-value of the test.
        adjusted_p_value: Holm-adjusted p-value.
        power: simulated probability of detecting the copies named in `power_against` at this sample size.
        power_against: what the power refers to.
        passed: whether the test passed; None if it is an estimate or could not be run.
        note: details, or why the test could not be run.
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
    """How well one attack separates the audit patients of train from those of the holdout, by patient.

    Attributes:
        attack: name of the attack: with access to the model (`loss`, `combined`, ...), without
            (`release_...`), or a control that must find nothing (`control_untrained`, `control_members`).
        members: number of patients in train.
        non_members: number of patients in the holdout.
        auc: probability that a member scores higher than a non-member.
        noticeable_auc: smallest AUC that fails with a probability of 80 % at this number of patients, its
            p-value corrected as if all attacks had the same.
        hit_rate: true positive rate at a false positive rate of at most 1 %.
        hit_rate_interval: 95 % interval of the hit rate (bootstrap over patients).
        p_value: probability of an AUC at least this large under other outcomes of the coins.
        adjusted_p_value: p-value after Holm's correction.
        passed: whether the attack found no difference; None for a control.
        epsilon_lower_bound: one-run lower bound on epsilon at 95 % confidence (Steinke et al. 2023).
        guesses: number of guesses behind the lower bound.
        correct: number of correct guesses.
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
        name: `linkability` (link two halves of one scan to each other) or `attribute_inference` (guess its
            class).
        attacked: number of attacked scans of train.
        controls: number of attacked scans of the holdout.
        success: share of train scans for which the attack succeeds.
        control_success: the same of holdout scans, weighted to the classes of train.
        risk: (success - control_success) / (1 - control_success).
        interval: 95 % interval of the risk.
    """

    name: str
    attacked: int = Field(ge=0)
    controls: int = Field(ge=0)
    success: float = Field(ge=0, le=1)
    control_success: float = Field(ge=0, le=1)
    risk: float
    interval: tuple[float, float]


class Threshold(_Part):
    """A rejection threshold of one view and its false rejects.

    Attributes:
        view: the view.
        rule: the statistic that is compared with the threshold.
        value: the threshold.
        false_reject_rate: share of fresh real holdout scans (not used for tuning) that it rejects.
        interval: 95 % interval of that share (Clopper-Pearson).
        num_fresh: number of fresh scans.
    """

    view: str
    rule: str
    value: float | None
    false_reject_rate: float | None = Field(ge=0, le=1)
    interval: tuple[float, float] | None
    num_fresh: int = Field(ge=0)


class EarlierRelease(_Part):
    """An earlier release of the same patients that the audit includes.

    Attributes:
        digest: content digest of the release.
        images: number of images.
        checkpoint_digest: digest of its generator's checkpoint (empty if foreign).
        same_cohort: whether it was made from this cohort, and not from an earlier state of it.
        epsilon: guaranteed epsilon of its generator's training, None without a guarantee.
        delta: guaranteed delta of its generator's training, None without a guarantee.
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
        verdict: verdict of the worst class.
        reasons: reasons in words, worst first, then signs short of failing.
        policy_note: what the verdict allows.
        cohort_digest: digest of the cohort.
        candidates_digest: digest of the candidates.
        checkpoint_digest: digest of their checkpoint (empty if foreign).
        has_patient_ids: whether patients are known; if not, the verdict is capped at INCONCLUSIVE.
        classes: name -> verdict of the class.
        tests: tests and estimates of the whole set and of its classes.
        needed: numbers that would be enough to detect the planted share; None if not computed.
        thresholds: rejection thresholds with their false rejects.
        reference_counts: images and patients of train and holdout that were compared.
        false_reject_budget: budget of false rejects of all rules together.
        false_reject_rate: share of fresh holdout scans that all rules together reject.
        false_reject_interval: 95 % interval of that share.
        planted: recall on copies planted from this cohort, by kind ({kind: {recall, low, high, n}}).
        planted_strengths: family of disguises that differ only in strength -> kind -> strength, in the unit
            of the kind.
        membership: attacks on the audit patients, with controls.
        membership_note: why there were no attacks.
        checkpoint_verdict: whether membership inference speaks against sharing the checkpoint itself; None if
            it was not attacked.
        checkpoint_reasons: reasons of that verdict, in words.
        differential_privacy: guarantee of the checkpoint's training; None without a guarantee, or if no
            checkpoint was given.
        earlier_cohorts: digests of the cohorts whose scans the generator saw before, in the checkpoints that
            its training started from. No image was compared with these scans.
        attack_risks: linkability and attribute inference, which do not affect the verdict.
        earlier_releases: releases that were added to the audited images to measure membership and these
            risks.
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
    earlier_cohorts: tuple[str, ...] = ()
    attack_risks: tuple[AttackRisk, ...] = ()
    earlier_releases: tuple[EarlierRelease, ...] = ()
    not_covered: tuple[str, ...]
    settings: dict[str, Any]

    @property
    def joint_guarantee(self) -> tuple[float, float] | None:
        """(epsilon, delta) of all generators together by basic composition; None if one has no guarantee.

        A generator counts once for any number of releases.
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
        """One sentence on the earlier releases; empty if there are none."""
        if not self.earlier_releases:
            return ""
        images, count = sum(part.images for part in self.earlier_releases), len(self.earlier_releases)
        said = (
            f"{count} earlier release{'s' if count > 1 else ''} of these patients ({images} images) "
            f"{'were' if count > 1 else 'was'} included in the membership inference"
        )
        joint = self.joint_guarantee
        if joint is not None:
            said += f"; the generators of all of them together guarantee epsilon {joint[0]:.2f}, "
            said += f"delta {joint[1]:.1e} (basic composition)"
        elif self.differential_privacy is not None:
            said += "; not every generator has a guarantee, so there is no joint guarantee"
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
