"""The verdicts at the top of the report, in words: privacy, release, utility, labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.evaluation_report import Estimate, EvaluationReport
from pipeline.privacy_report import PrivacyReport
from pipeline.records import Policy, ReleaseRef, Verdict
from pipeline.report.folder import NOT_MADE, RunFolder
from pipeline.report.formats import percent, plural, sentence, whole_percent_below

Tone = Literal["good", "warn", "bad", "none"]

AGREEMENT_AIM = 0.90
"""Share of each class that a classifier trained on real scans should read as intended."""

_PRIVACY_WORDS = {
    Verdict.PASS: (
        "good",
        "No test failed, and the tests are strong enough at this size to notice planted copies.",
    ),
    Verdict.INCONCLUSIVE: (
        "warn",
        "No test failed, but the tests are too weak here to say that the images are safe to release. "
        "This is not a pass.",
    ),
    Verdict.FAIL: ("bad", "At least one class failed. Images with this verdict are never released."),
}
_UTILITY_TONES: dict[str, Tone] = {
    "helps": "good",
    "no measurable effect": "none",
    "harms": "bad",
    "not measured": "none",
}


@dataclass(frozen=True)
class Headline:
    """One verdict: a title, its status in a word or two, the colour it is shown in, and sentences."""

    title: str
    status: str
    tone: Tone
    words: tuple[str, ...]


def headlines(run: RunFolder) -> list[Headline]:
    """Return the four verdicts of a run, in the order of the page."""
    return [_privacy(run), _release(run), _utility(run), _labels(run)]


def inconclusive(run: RunFolder) -> bool:
    """Return whether the page must open with the notice that the privacy verdict is INCONCLUSIVE."""
    return run.audit is not None and run.audit.verdict is Verdict.INCONCLUSIVE


def refused(run: RunFolder) -> bool:
    """Return whether the gate refused a release: by its verdict, or by the policy of the run."""
    if run.audit is None or run.release is not None:
        return False
    policy = policy_of(run) or Policy.RESEARCH
    return not policy.allows(run.audit.verdict)


def policy_of(run: RunFolder) -> Policy | None:
    """Return the gate policy of the run's recipe or of its release, None where neither is recorded."""
    named = run.section("release").get("policy") or run.settings("release").get("policy")
    try:
        return Policy(str(named))
    except ValueError:
        return None


def _missing(run: RunFolder, stage: str, title: str) -> Headline:
    why = run.absent.get(stage, NOT_MADE)
    status = "Not made" if why == NOT_MADE else "Not shown"
    return Headline(title, status, "none", (f"The {stage} of this run: {why}.",))


def _privacy(run: RunFolder) -> Headline:
    if run.audit is None:
        return _missing(run, "audit", "Measured privacy risk")
    tone, words = _PRIVACY_WORDS[run.audit.verdict]
    sentences = (words, *(sentence(reason) for reason in _because(run.audit)))
    return Headline("Measured privacy risk", run.audit.verdict.value, tone, sentences)  # type: ignore[arg-type]


def _because(audit: PrivacyReport) -> tuple[str, ...]:
    # A pass needs no further reason beside its sentence; the privacy card lists them all.
    return () if audit.verdict is Verdict.PASS else audit.reasons[:3]


def _release(run: RunFolder) -> Headline:
    if run.release is not None:
        return _released(run, run.release)
    if run.audit is None:
        return _missing(run, "release", "Release")
    verdict, policy = run.audit.verdict, policy_of(run)
    lies_there = run.absent.get("release", NOT_MADE)
    leftover = () if lies_there == NOT_MADE else (f"What lies in the folder release: {lies_there}.",)
    if verdict is Verdict.FAIL:
        words = "The gate refused: a FAIL verdict is never released, under any policy."
        return Headline("Release", "Refused", "bad", (words, *leftover))
    if policy is not None and not policy.allows(verdict):
        words = f"The gate refused: the {policy.value} policy does not release {verdict.value}."
        return Headline("Release", "Refused", "bad", (words, *leftover))
    if verdict is Verdict.INCONCLUSIVE and policy is None:
        words = "There is no release. INCONCLUSIVE may be released under the research policy only."
    else:
        words = "The verdict allows a release; none was made yet."
    return Headline("Release", "Not made", "none", (words, *leftover))


def _released(run: RunFolder, release: ReleaseRef) -> Headline:
    accepted = _accepted(run.audit)
    images = plural(accepted, "synthetic image") if accepted is not None else "The accepted images"
    verb = "was" if accepted == 1 else "were"
    words = f"{images} {verb} released; no real image, record id or distance to a patient is in it."
    if release.verdict is not Verdict.INCONCLUSIVE:
        return Headline("Release", "Released", "good", (words,))
    notice = (
        "It was allowed under the research policy only, and its card says that the privacy verdict is "
        "INCONCLUSIVE."
    )
    return Headline("Release", "Released for research", "warn", (words, notice))


def _accepted(audit: PrivacyReport | None) -> int | None:
    return None if audit is None else sum(verdict.accepted for verdict in audit.classes.values())


def _utility(run: RunFolder) -> Headline:
    if run.evaluation is None:
        return _without_evaluation(run, "Did it help?")
    utility = run.evaluation.utility
    tone = _UTILITY_TONES[utility.verdict]
    return Headline("Did it help?", utility.verdict.capitalize(), tone, (sentence(utility.words),))


def _without_evaluation(run: RunFolder, title: str) -> Headline:
    why = run.absent.get("evaluation", NOT_MADE)
    if why == NOT_MADE and run.release is None and run.audit is not None:
        return Headline(title, "Not made", "none", ("Nothing was released, so nothing was evaluated.",))
    return _missing(run, "evaluation", title)


def _labels(run: RunFolder) -> Headline:
    title = "Are the labels right?"
    if run.evaluation is None:
        return _without_evaluation(run, title)
    agreement = run.evaluation.label_agreement
    if not agreement:
        return Headline(title, "Not measured", "none", ("No classifier read the released images.",))
    worst = min(agreement, key=lambda name: agreement[name].value)
    lowest = agreement[worst].value
    sentences = [
        "A classifier that was trained on real scans alone, and never saw a synthetic one, reads at least "
        f"{percent(lowest)} of every class as intended (lowest: {worst})."
    ]
    control = overall(run.evaluation.label_agreement_shuffled)
    if control is not None:
        sentences.append(f"With the labels shuffled, as a control: {percent(control)}.")
    if not control_is_clear(run.evaluation):
        sentences.append("The control is not clearly lower, so this agreement says little.")
        return Headline(title, "Unclear", "warn", tuple(sentences))
    headline = "All agree" if lowest == 1.0 else f"{whole_percent_below(lowest)} or more agree"
    if lowest < AGREEMENT_AIM:
        sentences.append(f"The aim is {percent(AGREEMENT_AIM, 0)} of every class.")
        return Headline(title, headline, "warn", tuple(sentences))
    return Headline(title, headline, "good", tuple(sentences))


def overall(shares: dict[str, Estimate]) -> float | None:
    """Return the share over all classes together, weighted by their sizes (None if there are none)."""
    total = sum(value.n for value in shares.values())
    if total == 0:
        return None
    return sum(value.value * value.n for value in shares.values()) / total


def control_is_clear(evaluation: EvaluationReport) -> bool:
    """Return whether the agreement lies above the shuffled control with intervals that do not meet."""
    for name, value in evaluation.label_agreement.items():
        control = evaluation.label_agreement_shuffled.get(name)
        if control is None:
            continue
        low = value.value if value.low is None else value.low
        high = control.value if control.high is None else control.high
        if low <= high:
            return False
    return True
