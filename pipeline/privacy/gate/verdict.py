"""The three-valued verdict: the worst class decides; every reason is given in words."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.artifacts.guarantee import DifferentialPrivacy
from pipeline.artifacts.privacy_report import COPY_COUNT, ClassVerdict, MembershipResult, TestResult
from pipeline.privacy.gate.set_tests import POOLED
from pipeline.records import Verdict
from pipeline.wording.privacy import (
    Levels,
    Outcome,
    attack_outcome,
    loud_controls,
    named,
    visible_auc,
)

WORST_FIRST = (Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.PASS)


@dataclass(frozen=True)
class ClassFacts:
    """Counts of the candidates of one class.

    Attributes:
        asked: requested number of images, None if no number was requested.
        candidates: number of candidates.
        passing: number that pass the gate (before trimming to `asked`).
        rejected: reason -> number of candidates.
    """

    asked: int | None
    candidates: int
    passing: int
    rejected: dict[str, int]

    @property
    def wanted(self) -> int:
        """Number of images the class must have; if none was requested, as many as pass, but at least one."""
        return max(1, self.passing) if self.asked is None else self.asked


@dataclass(frozen=True)
class Strength:
    """Strength of the gate: whether it could have detected copies.

    Attributes:
        has_patient_ids: whether patients are known.
        holdout_patients: number of holdout patients.
        min_holdout_patients: least number for PASS.
        power: class -> probability of detecting the planted share.
        min_power: least power for PASS.
        planted_share: share of copies that the power refers to.
        recall: recall on the plain planted copies.
        min_recall: least recall for PASS.
        num_unread: files in the folder of the candidates that were not looked at.
        would_do: in words, what would be enough to detect the planted share.
    """

    has_patient_ids: bool
    holdout_patients: int
    min_holdout_patients: int
    power: dict[str, float]
    min_power: float
    planted_share: float
    recall: float
    min_recall: float
    num_unread: int = 0
    would_do: str = ""

    def weaknesses(self, name: str) -> list[str]:
        """Return in words why finding nothing would not be conclusive for one class."""
        found = []
        if self.num_unread:
            found.append(
                f"the verdict rests on a part of the folder: {self.num_unread} files that may be images were "
                "not looked at"
            )
        if not self.has_patient_ids:
            found.append("the cohort has no patient ids, so images of one patient may be on both sides")
        if self.holdout_patients < self.min_holdout_patients:
            found.append(
                f"{self.holdout_patients} holdout patients are too few to tell "
                f"(the policy needs {self.min_holdout_patients})"
            )
        if self.power[name] < self.min_power:
            weak = (
                f"{self.planted_share:.1%} planted copies would have been detected with a probability of "
                f"only {self.power[name]:.2f} (needed: {self.min_power:.2f})"
            )
            found.append(f"{weak}; {self.would_do}" if self.would_do else weak)
        if self.recall < self.min_recall:
            found.append(
                f"only {self.recall:.0%} of planted plain copies were rejected "
                f"(needed: {self.min_recall:.0%})"
            )
        return found


def judge_class(
    name: str,
    facts: ClassFacts,
    tests: tuple[TestResult, ...],
    strength: Strength,
    release_attacks: tuple[MembershipResult, ...] = (),
    *,
    num_earlier: int = 0,
) -> ClassVerdict:
    """Return the verdict of one class.

    FAIL if a test of the class or of the whole set fails, if the release reveals who was in the training
    data, or if the class has too few images; INCONCLUSIVE if nothing fails but the gate was too weak to tell;
    PASS otherwise.

    Args:
        name: name of the class.
        facts: counts of its candidates.
        tests: all tests of the audit.
        strength: strength of the gate.
        release_attacks: membership attacks with the released images.
        num_earlier: number of earlier releases that were attacked together with the accepted images.
    """
    accepted = min(facts.wanted, facts.passing)
    reasons = _failed([test for test in tests if test.passed is False and test.scope in (POOLED, name)])
    who = "the accepted images"
    if num_earlier:
        who += f", with {num_earlier} earlier release{'s' if num_earlier > 1 else ''},"
    told = [attack for attack in release_attacks if attack.passed is False]
    if told:
        reasons.append(f"{who} reveal who was in the training data: {named(told)}")
    if accepted < facts.wanted:
        number = f"{facts.wanted} images were" if facts.wanted != 1 else "1 image was"
        reasons.append(f"{number} requested, but {accepted} of {facts.candidates} candidates passed the gate")
    verdict = Verdict.FAIL
    if not reasons:
        reasons = strength.weaknesses(name)
        verdict = Verdict.INCONCLUSIVE if reasons else Verdict.PASS
    return ClassVerdict(
        verdict=verdict,
        asked=facts.wanted,
        candidates=facts.candidates,
        accepted=accepted,
        short=facts.wanted - accepted,
        rejected=facts.rejected,
        reasons=tuple(reasons),
        power=strength.power[name],
    )


def overall(classes: dict[str, ClassVerdict]) -> tuple[Verdict, tuple[str, ...]]:
    """Return the worst class's verdict and all reasons without repetition, worst first."""
    worst = min((part.verdict for part in classes.values()), key=WORST_FIRST.index)
    said: dict[str, list[str]] = {}
    for verdict in WORST_FIRST:
        for name, part in classes.items():
            if part.verdict is verdict:
                for reason in part.reasons:
                    said.setdefault(reason, []).append(name)
    if not said:
        return worst, ("no test failed, and planted copies would have been detected",)
    return worst, tuple(f"{', '.join(names)}: {reason}" for reason, names in said.items())


def judge_checkpoint(
    attacks: tuple[MembershipResult, ...],
    controls: tuple[MembershipResult, ...],
    *,
    has_patient_ids: bool,
    min_patients: int,
    significance: float,
    guarantee: DifferentialPrivacy | None = None,
) -> tuple[Verdict, tuple[str, ...]]:
    """Return whether membership inference speaks against sharing the checkpoint itself, with reasons.

    An attack whose lower bound on epsilon exceeds the guaranteed epsilon refutes the guarantee.
    """
    loud = loud_controls(controls, significance)
    if loud:
        return Verdict.INCONCLUSIVE, (
            "a control, which must find nothing, found something, so the attacks mean nothing: "
            f"{named(loud)}",
        )
    telling = [attack for attack in attacks if attack.passed is False]
    told = [f"the model reveals who was in the training data: {named(telling)}"] if telling else []
    if guarantee is not None:
        told += [
            f"the {attack.attack} attack shows an epsilon of at least {attack.epsilon_lower_bound:.2f}, but "
            f"the training guarantees {guarantee.epsilon:.2f}: the guarantee does not hold"
            for attack in attacks
            if attack.epsilon_lower_bound > guarantee.epsilon
        ]
    if told:
        return Verdict.FAIL, tuple(told)
    levels = Levels(significance=significance, min_patients=min_patients)
    near = [attack for attack in attacks if attack_outcome(attack, levels) is Outcome.SIGN]
    signs = (
        [f"a sign that the model reveals who was in the training data, short of failing: {named(near)}"]
        if near
        else []
    )
    seen = visible_auc(attacks, levels).rstrip(".")
    seen = seen[0].lower() + seen[1:]
    weak = []
    if not has_patient_ids:
        weak.append("the cohort has no patient ids, so images of one patient may be on both sides")
    fewest = min(min(attack.members, attack.non_members) for attack in attacks)
    if fewest < min_patients:
        weak.append(
            f"{fewest} audit patients on one side are too few to tell (needed: {min_patients}); {seen}"
        )
    if weak:
        return Verdict.INCONCLUSIVE, (*weak, *signs)
    return Verdict.PASS, (f"no attack reached significance; {seen}", *signs)


def _failed(tests: list[TestResult]) -> list[str]:
    """Return each finding of the failed tests once, with the tests that show it."""
    shown: dict[str, list[TestResult]] = {}
    for test in tests:
        whose = "of the whole set" if test.scope == POOLED else "of this class"
        found = f"the most copy-like candidates {whose} lie nearer to train than chance explains"
        if test.name == COPY_COUNT:
            found = f"more candidates {whose} stand out as copies than real scans account for"
        shown.setdefault(found, []).append(test)
    said = []
    for found, own in shown.items():
        views: dict[str, list[str]] = {}
        for test in own:
            views.setdefault(test.name, []).append(test.view)
        by = "; ".join(f"{name} by {', '.join(seen)}" for name, seen in views.items())
        least = min(test.adjusted_p_value for test in own if test.adjusted_p_value is not None)
        said.append(f"{found} ({by}; {'smallest ' if len(own) > 1 else ''}adjusted p = {least:.2g})")
    return said


def policy_note(verdict: Verdict) -> str:
    """Return what the verdict allows, as a note."""
    return {
        Verdict.PASS: (
            "Measured privacy risk: no test failed, and planted copies would have been detected. "
            "May be released under every policy."
        ),
        Verdict.INCONCLUSIVE: (
            "Measured privacy risk: no test failed, but the tests are too weak to tell. "
            "May be released under the research policy only; the release then says so."
        ),
        Verdict.FAIL: "Measured privacy risk: failed. May not be released under any policy.",
    }[verdict]
