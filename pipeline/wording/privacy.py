"""What the tests of an audit say, in words that are true at their power, for every page and card."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from pipeline.artifacts.privacy_report import MembershipResult, Needed, PrivacyReport, TestResult
from pipeline.wording.power import least_p, patients_for_auc, round_up, trials_below

SIGN_LEVEL = 0.05
"""Adjusted p-value below which what a test found is named as a sign, though it does not fail: of audits of a
generator that copies nothing, one in twenty at most shows one in each family of tests."""
SHOWN_AUCS = (0.7, 0.6)
"""AUCs for which it is said how many patients would notice them."""
RELEASE = "release_"
"""Attacks with nothing but the released images begin with this."""
CONTROL = "control_"


class Outcome(StrEnum):
    """What one test of an audit says, at its power."""

    FAILED = "failed"
    SIGN = "a sign, short of failing"
    CLEAR = "nothing found"
    BLIND = "could not tell"
    NOT_RUN = "not run"
    LOUD = "finds what is not there"


@dataclass(frozen=True)
class Levels:
    """What the audit's settings ask of a test.

    Attributes:
        significance: adjusted p-value below which a test fails.
        min_power: from which on a test that finds nothing counts as having found nothing.
        min_patients: on either side, from which on an attack does.
    """

    significance: float = 0.01
    min_power: float = 0.8
    min_patients: int = 40

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> Levels:
        """Return them from the settings that a report holds; what is missing is as by default."""
        named = {key: settings[key] for key in ("significance", "min_power") if key in settings}
        membership = settings.get("membership", {})
        fewest = membership.get("min_patients") if isinstance(membership, Mapping) else None
        return cls(**named) if fewest is None else cls(**named, min_patients=int(fewest))


def outcome(test: TestResult, levels: Levels) -> Outcome:
    """Return what a test of the whole set says; nothing found counts only where copies would have been."""
    if test.passed is None:
        return Outcome.NOT_RUN
    strong = test.power is not None and test.power >= levels.min_power
    return _outcome(test.passed, test.adjusted_p_value, strong)


def attack_outcome(attack: MembershipResult, levels: Levels) -> Outcome:
    """Return what an attack on the audit patients says; nothing found counts only of enough patients."""
    strong = min(attack.members, attack.non_members) >= levels.min_patients
    # A control cannot fail: whether it finds what is not there is judged by `loud_controls`.
    return _outcome(attack.passed is not False, attack.adjusted_p_value, strong)


def attack_outcomes(report: PrivacyReport) -> list[Outcome]:
    """Return what each attack of a report says, controls included, in the order of the report."""
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
    """Return the attacks with nothing but the released images."""
    return [attack for attack in membership if attack.attack.startswith(RELEASE)]


def on_model(membership: Sequence[MembershipResult]) -> list[MembershipResult]:
    """Return the attacks with access to the model."""
    return [attack for attack in membership if not attack.attack.startswith((RELEASE, CONTROL))]


def signs(
    tests: Sequence[TestResult], membership: Sequence[MembershipResult], levels: Levels
) -> tuple[str, ...]:
    """Return what points to a leak of the images, short of what fails, each in words with its numbers."""
    found = []
    near = [test for test in tests if outcome(test, levels) is Outcome.SIGN]
    if near:
        by = ", ".join(f"{_named(test)} (adjusted p = {test.adjusted_p_value:.2g})" for test in near)
        found.append(f"a sign of copies, short of failing (adjusted p below {levels.significance:g}): {by}")
    told = [attack for attack in on_release(membership) if attack_outcome(attack, levels) is Outcome.SIGN]
    if told:
        found.append(
            "a sign that the accepted images tell who was trained on, short of failing (adjusted p below "
            f"{levels.significance:g}): {named(told)}"
        )
    return tuple(found)


def signs_of(report: PrivacyReport) -> tuple[str, ...]:
    """Return the signs of a report; see `signs`."""
    return signs(report.tests, report.membership, Levels.of(report.settings))


def undecided_words(report: PrivacyReport) -> str:
    """Return what an INCONCLUSIVE verdict means: too weak to tell, with or without a sign."""
    near = signs_of(report)
    if not near:
        return "No test failed, but the tests were too weak to tell."
    some = "there is a sign" if len(near) == 1 else f"there are {len(near)} signs"
    return f"No test failed, but the tests were too weak to tell, and {some} of a leak: {'; '.join(near)}."


def named(attacks: Sequence[MembershipResult]) -> str:
    """Name attacks with their AUC, the patients behind it, and the p-value, adjusted where it was."""
    said = []
    for attack in attacks:
        p_value = attack.p_value if attack.adjusted_p_value is None else attack.adjusted_p_value
        patients = f"over {attack.members} and {attack.non_members} patients"
        said.append(f"{attack.attack} (AUC {attack.auc:.2f} {patients}, p = {p_value:.2g})")
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
            f"{counts[Outcome.CLEAR]} found nothing and would have noticed {against} with a chance of "
            f"{percent(levels.min_power)} or more"
        )
    if counts[Outcome.BLIND]:
        parts.append(
            f"{counts[Outcome.BLIND]} were not able to tell (by itself each would notice {against} with a "
            f"chance of less than {percent(levels.min_power)}, or that is not known)"
        )
    said = f"Of {len(ran)} tests on the images, {'; '.join(parts)}."
    powers = [part.power for part in report.classes.values() if part.power is not None]
    if powers:
        where = " in the class where they are weakest" if len(powers) > 1 else ""
        said += f" All tests together would notice {against} with a chance of {percent(min(powers))}{where}."
    return said


def needed_words(needed: Needed | None) -> str:
    """Return what it would take to notice the planted share; "" where that was not worked out."""
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
        f"{percent(needed.stands_out)} of the planted copies stand out farther than real scans do, and "
        f"neither more candidates nor more real scans than the {needed.compared:,} compared would be enough "
        "by themselves"
    )


def release_words(report: PrivacyReport) -> str:
    """Return whether the released images tell who was in the training data, as far as could be told."""
    attacks = on_release(report.membership)
    return _who("The released images", "tell", "show", attacks, Levels.of(report.settings))


def untold_words(report: PrivacyReport) -> list[str]:
    """Return what a PASS leaves open: the verdict rests on copies, not on whether patients can be told."""
    levels = Levels.of(report.settings)
    attacks = on_release(report.membership)
    blind = bool(attacks) and all(attack_outcome(own, levels) is Outcome.BLIND for own in attacks)
    return [release_words(report)] if blind else []


def model_words(report: PrivacyReport) -> str:
    """Return whether the model itself tells who was in its training data, as far as could be told."""
    attacks, levels = on_model(report.membership), Levels.of(report.settings)
    controls = [attack for attack in report.membership if attack.attack.startswith(CONTROL)]
    if loud_controls(controls, levels.significance):
        return (
            "Whether the model itself tells could not be told: a control, which must find nothing, finds "
            f"something ({named(loud_controls(controls, levels.significance))})."
        )
    return _who("The model itself", "tells", "shows", attacks, levels)


def loud_controls(controls: Sequence[MembershipResult], significance: float) -> list[MembershipResult]:
    """Return the controls that find what is not there, at the level corrected for their number."""
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
        said = f"{subject} {shows} a sign of telling {what}, short of failing (adjusted p below "
        return f"{said}{levels.significance:g}): {named(by[Outcome.SIGN])}. {seen}"
    if by[Outcome.BLIND]:
        return f"Whether {subject[0].lower()}{subject[1:]} {verb} {what} could not be told. {seen}"
    return f"No attack told {what} from {subject[0].lower()}{subject[1:]}. {seen}"


def visible_auc(attacks: Sequence[MembershipResult], levels: Levels) -> str:
    """Return which AUC so many patients would have shown, and how many it takes for a smaller one."""
    weakest = max(attacks, key=lambda attack: attack.noticeable_auc)
    patients = f"{weakest.members} and {weakest.non_members} patients"
    level = levels.significance / len(attacks)
    if least_p(weakest.members, weakest.non_members) >= level:
        said = f"Of {patients} not even an attack without an error could fail"
    elif weakest.noticeable_auc >= 0.995:
        said = f"Of {patients} only an attack with hardly an error would be noticed with a chance of 80 %"
    else:
        said = (
            f"Of {patients} an AUC of {_up_to(weakest.noticeable_auc)} would be noticed with a chance of 80 %"
        )
    if min(weakest.members, weakest.non_members) >= levels.min_patients:
        return f"{said}."
    takes = [
        f"{patients_for_auc(value, significance=level):,} for one of {value:.2f}"
        for value in SHOWN_AUCS
        if value < weakest.noticeable_auc
    ]
    return f"{said}; it takes {' and '.join(takes)} on either side." if takes else f"{said}."


def false_rejects(report: PrivacyReport) -> str:
    """Return what the gate costs of unseen real scans, and whether that is within the budget."""
    budget = percent(report.false_reject_budget)
    rate, interval = report.false_reject_rate, report.false_reject_interval
    if rate is None or interval is None:
        return f"Not measured (budget {budget})."
    seen = max((part.num_fresh for part in report.thresholds), default=0)
    scans = f"{seen:,} real scans" if seen else "the real scans"
    said = (
        f"{percent(rate, 1)} of {scans} that nothing was tuned on were rejected by all rules together (95 % "
        f"interval {percent(interval[0], 1)} to {percent(interval[1], 1)}; budget {budget})"
    )
    if interval[1] <= report.false_reject_budget:
        return f"{said}: within the budget."
    if interval[0] > report.false_reject_budget:
        return f"{said}: more than the budget."
    enough = trials_below(rate, report.false_reject_budget)
    takes = "" if enough is None else f"; at this rate about {round_up(enough):,} scans would show it"
    return f"{said}: whether the budget is kept cannot be told{takes}."


def hardest_copy(report: PrivacyReport) -> str:
    """Return which kind of planted copy was caught least, with its interval; "" where none was planted."""
    planted = {kind: found for kind, found in report.planted.items() if found.get("n")}
    if not planted:
        return ""
    kind = min(planted, key=lambda name: planted[name].get("recall", 0.0))
    found = planted[kind]
    said = f"{percent(found.get('recall', 0.0))} of {int(found['n'])}"
    if {"low", "high"} <= found.keys():
        said += f", 95 % interval {percent(found['low'])} to {percent(found['high'])}"
    return f"Of copies planted as a test, the kind caught least was {kind.replace('_', ' ')} ({said})."


def _up_to(value: float) -> str:
    return f"{math.ceil(value * 100 - 1e-9) / 100:.2f}"


def percent(share: float, digits: int = 0) -> str:
    """Return a share as a percentage."""
    return f"{100 * share:.{digits}f} %"
