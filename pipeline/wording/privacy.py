"""Sentences that interpret the tests of an audit, true at their power; every page and card uses them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pipeline.artifacts.privacy_report import MembershipResult, Needed, PrivacyReport, TestResult
from pipeline.rendering.formats import plain_percent
from pipeline.wording.power import least_p, patients_for_auc, round_up, trials_below

SIGN_LEVEL = 0.05
"""Adjusted p-value below which a result is reported as a sign, although the test does not fail. Of the audits
of a generator that copies nothing, at most one in twenty shows a sign in each family of tests."""
SHOWN_AUCS = (0.7, 0.6)
"""AUCs for which the number of patients needed to detect them is reported."""
RELEASE = "release_"
"""Prefix of the attacks that use the released images alone."""
CONTROL = "control_"


class Outcome(StrEnum):
    """Outcome of one test of an audit, at its power."""

    FAILED = "failed"
    SIGN = "a sign, short of failing"
    CLEAR = "nothing found"
    BLIND = "could not tell"
    NOT_RUN = "not run"
    LOUD = "false positive"


@dataclass(frozen=True)
class Levels:
    """Levels that the audit's settings require of a test.

    Attributes:
        significance: adjusted p-value below which a test fails.
        min_power: least power at which a test that does not fail counts as having found nothing.
        min_patients: least number of patients on either side at which an attack counts as having found
            nothing.
    """

    significance: float = 0.01
    min_power: float = 0.8
    min_patients: int = 40

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Levels:
        """Return the levels from the settings in a report; missing ones take their defaults."""
        named = {key: settings[key] for key in ("significance", "min_power") if key in settings}
        membership = settings.get("membership", {})
        fewest = membership.get("min_patients") if isinstance(membership, Mapping) else None
        return cls(**named) if fewest is None else cls(**named, min_patients=int(fewest))


def outcome(test: TestResult, levels: Levels) -> Outcome:
    """Return the outcome of a test of the whole set; finding nothing needs sufficient power."""
    if test.passed is None:
        return Outcome.NOT_RUN
    strong = test.power is not None and test.power >= levels.min_power
    return _outcome(test.passed, test.adjusted_p_value, strong)


def attack_outcome(attack: MembershipResult, levels: Levels) -> Outcome:
    """Return the outcome of an attack on the audit patients; finding nothing needs enough patients."""
    strong = min(attack.members, attack.non_members) >= levels.min_patients
    # A control cannot fail: `loud_controls` judges whether it is a false positive.
    return _outcome(attack.passed is not False, attack.adjusted_p_value, strong)


def attack_outcomes(report: PrivacyReport) -> list[Outcome]:
    """Return the outcome of each attack of a report, controls included, in the order of the report."""
    levels = Levels.of(report.settings)
    controls = [attack for attack in report.membership if attack.attack.startswith(CONTROL)]
    loud = loud_controls(controls, levels.significance)
    return [
        Outcome.LOUD if attack in loud else attack_outcome(attack, levels) for attack in report.membership
    ]


def _outcome(passed: bool, adjusted_p: float | None, strong: bool) -> Outcome:
    if not passed:
        return Outcome.FAILED
    if adjusted_p is not None and adjusted_p < SIGN_LEVEL:
        return Outcome.SIGN
    return Outcome.CLEAR if strong else Outcome.BLIND


def on_release(membership: Sequence[MembershipResult]) -> list[MembershipResult]:
    """Return the attacks that use the released images alone."""
    return [attack for attack in membership if attack.attack.startswith(RELEASE)]


def on_model(membership: Sequence[MembershipResult]) -> list[MembershipResult]:
    """Return the attacks with access to the model."""
    return [attack for attack in membership if not attack.attack.startswith((RELEASE, CONTROL))]


def signs(
    tests: Sequence[TestResult], membership: Sequence[MembershipResult], levels: Levels
) -> tuple[str, ...]:
    """Return the signs that the images leak, short of failing, each as a phrase with its figures."""
    found = []
    near = [test for test in tests if outcome(test, levels) is Outcome.SIGN]
    if near:
        by = ", ".join(f"{_named(test)} (adjusted p = {test.adjusted_p_value:.2g})" for test in near)
        found.append(f"a sign of copies, short of failing (adjusted p below {levels.significance:g}): {by}")
    told = [attack for attack in on_release(membership) if attack_outcome(attack, levels) is Outcome.SIGN]
    if told:
        found.append(
            "a sign that the accepted images reveal who was in the training data, short of failing (adjusted "
            f"p below {levels.significance:g}): {named(told)}"
        )
    return tuple(found)


def signs_of(report: PrivacyReport) -> tuple[str, ...]:
    """Return the signs of a report; see `signs`."""
    return signs(report.tests, report.membership, Levels.of(report.settings))


def undecided_words(report: PrivacyReport) -> str:
    """Return what an INCONCLUSIVE verdict means: tests too weak to tell, with or without a sign."""
    near = signs_of(report)
    if not near:
        return "No test failed, but the tests were too weak to tell."
    some = "there is a sign" if len(near) == 1 else f"there are {len(near)} signs"
    return f"No test failed, but the tests were too weak to tell, and {some} of a leak: {'; '.join(near)}."


def named(attacks: Sequence[MembershipResult]) -> str:
    """Return the names of attacks with AUC, number of patients, and p-value (adjusted where available)."""
    said = []
    for attack in attacks:
        p_value = attack.p_value if attack.adjusted_p_value is None else attack.adjusted_p_value
        patients = f"{attack.members} members and {attack.non_members} non-members"
        said.append(f"{attack.attack} (AUC {attack.auc:.2f}, {patients}, p = {p_value:.2g})")
    return ", ".join(said)


def _named(test: TestResult) -> str:
    scope = "the whole set" if test.scope == "pooled" else test.scope
    return f"{test.name} by {test.view} over {scope}"


def tally(report: PrivacyReport) -> str:
    """Return how many tests on the whole set failed, found nothing, or could not tell; "" without tests."""
    levels = Levels.of(report.settings)
    ran = [test for test in report.tests if test.passed is not None]
    if not ran:
        return ""
    counts = {kind: sum(outcome(test, levels) is kind for test in ran) for kind in Outcome}
    against = next((test.power_against for test in ran if test.power_against), "planted copies")
    parts = [f"{counts[Outcome.FAILED] or 'none'} failed"]
    if counts[Outcome.SIGN]:
        parts.append(f"{counts[Outcome.SIGN]} found a sign, short of failing")
    if counts[Outcome.CLEAR]:
        parts.append(
            f"{counts[Outcome.CLEAR]} found nothing and would have detected {against} with a probability of "
            f"{plain_percent(levels.min_power, 0)} or more"
        )
    if counts[Outcome.BLIND]:
        parts.append(
            f"{counts[Outcome.BLIND]} could not tell (each by itself would detect {against} with a "
            f"probability of less than {plain_percent(levels.min_power, 0)}, or its power is not known)"
        )
    said = f"Of {len(ran)} tests on the images, {'; '.join(parts)}."
    powers = [part.power for part in report.classes.values() if part.power is not None]
    if powers:
        where = " in the class where they are weakest" if len(powers) > 1 else ""
        weakest = plain_percent(min(powers), 0)
        said += f" All tests together would detect {against} with a probability of {weakest}{where}."
    return said


def needed_words(needed: Needed | None) -> str:
    """Return what would be enough to detect the planted share; "" if it was not computed."""
    if needed is None:
        return ""
    enough = []
    if needed.candidates is not None:
        enough.append(f"about {round_up(needed.candidates):,} candidates")
    if needed.real_scans is not None:
        enough.append(f"about {round_up(needed.real_scans):,} real scans of train and holdout")
    if enough:
        none = f"with {needed.compared:,} real scans no number of candidates would be enough; "
        return f"{none if needed.candidates is None else ''}{' or '.join(enough)} would be enough"
    if needed.together is not None:
        candidates, scans = needed.together
        return (
            f"about {round_up(candidates):,} candidates together with about {round_up(scans):,} real scans "
            "of train and holdout would be enough, where neither alone would"
        )
    return (
        f"{plain_percent(needed.stands_out, 0)} of the planted copies stand out farther than real scans do, "
        f"and neither more candidates nor more real scans than the {needed.compared:,} compared would be "
        "enough by themselves"
    )


def release_words(report: PrivacyReport) -> str:
    """Return whether the released images reveal who was in the training data, at the power of the attacks."""
    attacks = on_release(report.membership)
    return _who("The released images", "reveal", "show", attacks, Levels.of(report.settings))


def untold_words(report: PrivacyReport) -> list[str]:
    """Return what a PASS leaves open: the verdict rests on copies, not on membership inference."""
    levels = Levels.of(report.settings)
    attacks = on_release(report.membership)
    blind = bool(attacks) and all(attack_outcome(own, levels) is Outcome.BLIND for own in attacks)
    return [release_words(report)] if blind else []


def model_words(report: PrivacyReport) -> str:
    """Return whether the model itself reveals who was in its training data, at the power of the attacks."""
    attacks, levels = on_model(report.membership), Levels.of(report.settings)
    controls = [attack for attack in report.membership if attack.attack.startswith(CONTROL)]
    if loud_controls(controls, levels.significance):
        return (
            "The attacks could not tell whether the model itself reveals who was in the training data: a "
            "control, which must find nothing, found something "
            f"({named(loud_controls(controls, levels.significance))})."
        )
    return _who("The model itself", "reveals", "shows", attacks, levels)


def loud_controls(controls: Sequence[MembershipResult], significance: float) -> list[MembershipResult]:
    """Return the controls that are false positives, at the level corrected for their number."""
    return [control for control in controls if control.p_value < significance / len(controls)]


def _who(subject: str, verb: str, shows: str, attacks: Sequence[MembershipResult], levels: Levels) -> str:
    what = "who was in the training data"
    if not attacks:
        return ""
    by = {kind: [own for own in attacks if attack_outcome(own, levels) is kind] for kind in Outcome}
    seen = visible_auc(attacks, levels)
    if by[Outcome.FAILED]:
        return f"{subject} {verb} {what}: {named(by[Outcome.FAILED])}."
    if by[Outcome.SIGN]:
        said = f"{subject} {shows} a sign of revealing {what}, short of failing (adjusted p below "
        return f"{said}{levels.significance:g}): {named(by[Outcome.SIGN])}. {seen}"
    if by[Outcome.BLIND]:
        return f"The attacks could not tell whether {subject[0].lower()}{subject[1:]} {verb} {what}. {seen}"
    return f"No attack inferred {what} from {subject[0].lower()}{subject[1:]}. {seen}"


def visible_auc(attacks: Sequence[MembershipResult], levels: Levels) -> str:
    """Return the AUC that this many patients would show, and how many patients a smaller AUC needs."""
    weakest = max(attacks, key=lambda attack: attack.noticeable_auc)
    patients = f"{weakest.members} members and {weakest.non_members} non-members"
    level = levels.significance / len(attacks)
    if least_p(weakest.members, weakest.non_members) >= level:
        said = f"With {patients}, not even a perfect attack would be significant"
    elif weakest.noticeable_auc >= 0.995:
        said = f"With {patients}, only a nearly perfect attack would be detected with a probability of 80 %"
    else:
        said = (
            f"With {patients}, an AUC of {_up_to(weakest.noticeable_auc)} would be detected with a "
            "probability of 80 %"
        )
    if min(weakest.members, weakest.non_members) >= levels.min_patients:
        return f"{said}."
    takes = [
        f"an AUC of {value:.2f} needs {patients_for_auc(value, significance=level):,} patients"
        for value in SHOWN_AUCS
        if value < weakest.noticeable_auc
    ]
    return f"{said}; {' and '.join(takes)} on each side." if takes else f"{said}."


def false_rejects(report: PrivacyReport) -> str:
    """Return the share of unseen real scans that the gate rejects, and whether it is within the budget."""
    budget = plain_percent(report.false_reject_budget, 0)
    rate, interval = report.false_reject_rate, report.false_reject_interval
    if rate is None or interval is None:
        return f"Not measured (budget {budget})."
    seen = max((part.num_fresh for part in report.thresholds), default=0)
    scans = f"{seen:,} real scans" if seen else "the real scans"
    said = (
        f"{plain_percent(rate)} of {scans} that were not used for tuning were rejected by all rules together "
        f"(95 % interval {plain_percent(interval[0])} to {plain_percent(interval[1])}; budget {budget})"
    )
    if interval[1] <= report.false_reject_budget:
        return f"{said}: within the budget."
    if interval[0] > report.false_reject_budget:
        return f"{said}: more than the budget."
    enough = trials_below(rate, report.false_reject_budget)
    takes = "" if enough is None else f"; at this rate about {round_up(enough):,} scans would show that it is"
    return f"{said}: could not tell whether the rate is within the budget{takes}."


def hardest_copy(report: PrivacyReport) -> str:
    """Return the kind of planted copy that was caught least often, with its interval; "" if none was."""
    planted = {kind: found for kind, found in report.planted.items() if found.get("n")}
    if not planted:
        return ""
    kind = min(planted, key=lambda name: planted[name].get("recall", 0.0))
    found = planted[kind]
    said = f"{plain_percent(found.get('recall', 0.0), 0)} of {int(found['n'])}"
    if {"low", "high"} <= found.keys():
        said += f", 95 % interval {plain_percent(found['low'], 0)} to {plain_percent(found['high'], 0)}"
    return f"Of the planted copies, the kind caught least often was {kind.replace('_', ' ')} ({said})."


def _up_to(value: float) -> str:
    return f"{math.ceil(value * 100 - 1e-9) / 100:.2f}"
