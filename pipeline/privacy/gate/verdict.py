"""The three-valued verdict: by class, the worst decides, every reason in words."""

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
    """What happened to the candidates of one class.

    Attributes:
        asked: images wanted, None where nobody said; candidates: drawn; passing: past the gate (before
            trimming to `asked`).
        rejected: reason -> candidates.
    """

    asked: int | None
    candidates: int
    passing: int
    rejected: dict[str, int]

    @property
    def wanted(self) -> int:
        """Images that the class must have: as many as pass where nobody said, but one at least."""
        return max(1, self.passing) if self.asked is None else self.asked


@dataclass(frozen=True)
class Strength:
    """Whether the gate could have told.

    Attributes:
        has_patient_ids: whether patients are known.
        holdout_patients, min_holdout_patients: what the policy needs.
        power, min_power: chance to detect the planted share; by class for `power`.
        planted_share: the share that the power refers to.
        recall, min_recall: of the plain planted copies.
        num_unread: files beside the candidates that nobody looked at.
        would_do: in words, what would be enough to notice the planted share.
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
        """Return in words why nothing found would not mean nothing there, for one class."""
        found = []
        if self.num_unread:
            found.append(
                f"the verdict rests on a part of the folder: {self.num_unread} files that may be images were "
                "not looked at"
            )
        if not self.has_patient_ids:
            found.append("the cohort has no patient ids, so images of one patient may stand on both sides")
        if self.holdout_patients < self.min_holdout_patients:
            found.append(
                f"{self.holdout_patients} holdout patients are too few to tell "
                f"(the policy needs {self.min_holdout_patients})"
            )
        if self.power[name] < self.min_power:
            weak = (
                f"{self.planted_share:.1%} planted copies would have been noticed with a chance of only "
                f"{self.power[name]:.2f} (needed: {self.min_power:.2f})"
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
    """Conclude for one class; `num_earlier` releases were attacked together with the accepted images.

    FAIL if a test of the class or of the whole set fails, the release tells who was trained on, or the class
    runs short; INCONCLUSIVE if nothing fails but the gate was too weak to tell; PASS otherwise.
    """
    accepted = min(facts.wanted, facts.passing)
    reasons = _failed([test for test in tests if test.passed is False and test.scope in (POOLED, name)])
    who = "the accepted images"
    if num_earlier:
        who += f", with {num_earlier} earlier release{'s' if num_earlier > 1 else ''},"
    told = [attack for attack in release_attacks if attack.passed is False]
    if told:
        reasons.append(f"{who} tell who was trained on: {named(told)}")
    if accepted < facts.wanted:
        number = f"{facts.wanted} images were" if facts.wanted != 1 else "1 image was"
        reasons.append(f"{number} asked for, {accepted} of {facts.candidates} candidates passed the gate")
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
    """Return the worst class's verdict and all reasons, worst first, each said once."""
    worst = min((part.verdict for part in classes.values()), key=WORST_FIRST.index)
    said: dict[str, list[str]] = {}
    for verdict in WORST_FIRST:
        for name, part in classes.items():
            if part.verdict is verdict:
                for reason in part.reasons:
                    said.setdefault(reason, []).append(name)
    if not said:
        return worst, ("no test fails, and planted copies would have been noticed",)
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
    """Conclude whether membership inference speaks against sharing the checkpoint itself.

    An attack that shows a larger epsilon than the training guarantees proves the guarantee wrong.
    """
    loud = loud_controls(controls, significance)
    if loud:
        return Verdict.INCONCLUSIVE, (
            f"a control finds what is not there, so the attacks mean nothing: {named(loud)}",
        )
    telling = [attack for attack in attacks if attack.passed is False]
    told = [f"the model tells who was trained on: {named(telling)}"] if telling else []
    if guarantee is not None:
        told += [
            f"the {attack.attack} attack shows an epsilon of {attack.epsilon_lower_bound:.2f} at least, and "
            f"the training guarantees {guarantee.epsilon:.2f}: the guarantee does not hold"
            for attack in attacks
            if attack.epsilon_lower_bound > guarantee.epsilon
        ]
    if told:
        return Verdict.FAIL, tuple(told)
    levels = Levels(significance=significance, min_patients=min_patients)
    near = [attack for attack in attacks if attack_outcome(attack, levels) is Outcome.SIGN]
    signs = (
        [f"a sign that the model tells who was trained on, short of failing: {named(near)}"] if near else []
    )
    seen = visible_auc(attacks, levels).rstrip(".")
    seen = seen[0].lower() + seen[1:]
    weak = []
    if not has_patient_ids:
        weak.append("the cohort has no patient ids, so images of one patient may stand on both sides")
    fewest = min(min(attack.members, attack.non_members) for attack in attacks)
    if fewest < min_patients:
        weak.append(
            f"{fewest} audit patients on one side are too few to tell (needed: {min_patients}); {seen}"
        )
    if weak:
        return Verdict.INCONCLUSIVE, (*weak, *signs)
    return Verdict.PASS, (f"no attack fails; {seen}", *signs)


def _failed(tests: list[TestResult]) -> list[str]:
    """Say each thing that failed tests show once, and by which of them it is shown."""
    shown: dict[str, list[TestResult]] = {}
    for test in tests:
        whose = "of the whole set" if test.scope == POOLED else "of this class"
        found = f"the most copy-like candidates {whose} lie nearer to train than chance allows"
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
        said.append(f"{found} ({by}; {'least ' if len(own) > 1 else ''}adjusted p = {least:.2g})")
    return said


def policy_note(verdict: Verdict) -> str:
    """Say what the verdict allows."""
    return {
        Verdict.PASS: (
            "Measured privacy risk: no test failed, and planted copies would have been noticed. "
            "May be released under every policy."
        ),
        Verdict.INCONCLUSIVE: (
            "Measured privacy risk: no test failed, but the tests are too weak to say. "
            "May be released under the research policy only, and then says so."
        ),
        Verdict.FAIL: "Measured privacy risk: failed. May not be released under any policy.",
    }[verdict]
