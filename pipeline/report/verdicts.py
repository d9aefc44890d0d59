"""The verdicts at the top of the report, in words: privacy, release, utility, labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from pipeline.artifacts.evaluation_report import Estimate
from pipeline.artifacts.privacy_report import PrivacyReport
from pipeline.records import Policy, ReleaseRef, Verdict
from pipeline.rendering.formats import percent, plural, sentence, share_interval, whole_percent_below
from pipeline.report.folder import NOT_MADE, RunFolder
from pipeline.wording.evaluation import AGREEMENT_AIM, chance_words, misread_words
from pipeline.wording.privacy import signs_of, undecided_words, untold_words

Tone = Literal["good", "warn", "bad", "none"]

_PRIVACY_WORDS = {
    Verdict.PASS: (
        "good",
        "No test failed, and together the tests are strong enough at this size to detect planted copies.",
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
    "possibly helps": "none",
    "no measurable effect": "none",
    "could not tell": "none",
    "possibly harms": "warn",
    "harms": "bad",
    "not measured": "none",
}


@dataclass(frozen=True)
class Headline:
    """One verdict: a title, its status in a word or two, its colour, and sentences."""

    title: str
    status: str
    tone: Tone
    words: tuple[str, ...]


def headlines(run: RunFolder) -> list[Headline]:
    """Return the four verdicts of a run, in the order of the page."""
    return [_privacy(run), _release(run), _utility(run), _labels(run)]


def inconclusive(run: RunFolder) -> str:
    """Return the notice at the top of the page if the privacy verdict is INCONCLUSIVE, else ""."""
    if run.audit is None or run.audit.verdict is not Verdict.INCONCLUSIVE:
        return ""
    return undecided_words(run.audit)


def refused(run: RunFolder) -> bool:
    """Return whether the gate refused a release: by its verdict, or by the policy of the run."""
    if run.audit is None or run.release is not None:
        return False
    policy = policy_of(run) or Policy.RESEARCH
    return not policy.allows(run.audit.verdict)


def policy_of(run: RunFolder) -> Policy | None:
    """Return the gate policy of the run's recipe or of its release, None if neither is recorded."""
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
    near = signs_of(run.audit)
    # A pass needs no further reason; the privacy card lists all of them.
    because = [reason for reason in run.audit.reasons if reason not in near][:3]
    reasons = [*near, *(untold_words(run.audit) if run.audit.verdict is Verdict.PASS else because)]
    sentences = (words, *(sentence(reason) for reason in reasons))
    return Headline("Measured privacy risk", run.audit.verdict.value, tone, sentences)  # type: ignore[arg-type]


def _release(run: RunFolder) -> Headline:
    if run.release is not None:
        return _released(run, run.release)
    if run.audit is None:
        return _missing(run, "release", "Release")
    verdict, policy = run.audit.verdict, policy_of(run)
    lies_there = run.absent.get("release", NOT_MADE)
    leftover = () if lies_there == NOT_MADE else (f"Content of the folder release: {lies_there}.",)
    if verdict is Verdict.FAIL:
        words = "The gate refused: a FAIL verdict is never released, under any policy."
        return Headline("Release", "Refused", "bad", (words, *leftover))
    if policy is not None and not policy.allows(verdict):
        words = f"The gate refused: the {policy.value} policy does not release {verdict.value}."
        return Headline("Release", "Refused", "bad", (words, *leftover))
    if verdict is Verdict.INCONCLUSIVE and policy is None:
        words = "There is no release. INCONCLUSIVE may be released under the research policy only."
    else:
        words = "The verdict allows a release; none has been made yet."
    return Headline("Release", "Not made", "none", (words, *leftover))


def _released(run: RunFolder, release: ReleaseRef) -> Headline:
    accepted = _accepted(run.audit)
    images = plural(accepted, "synthetic image") if accepted is not None else "The accepted images"
    verb = "was" if accepted == 1 else "were"
    words = f"{images} {verb} released; the release holds no real image, record id or distance to a patient."
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
        return Headline(title, "Not measured", "none", ("No classifier was run on the released images.",))
    worst = min(agreement, key=lambda name: agreement[name].value)
    lowest = agreement[worst].value
    among = share_interval(agreement[worst])
    interval = f" (95\u00a0% interval {among})" if among else ""
    sentences = [
        "A classifier that was trained on real scans alone, and never saw a synthetic one, classifies "
        f"{percent(lowest)} of the {plural(agreement[worst].n, 'image')} of {worst} as intended"
        f"{interval}, and no smaller share of any other class."
    ]
    control = overall(run.evaluation.label_agreement_shuffled)
    if control is not None:
        sentences.append(f"With shuffled labels (the control): {percent(control)}.")
    by_chance = chance_words(run.evaluation)
    if by_chance:
        sentences += [by_chance, misread_words(run.evaluation)[1]]
        return Headline(title, "Unclear", "warn", tuple(filter(None, sentences)))
    headline = "All agree" if lowest == 1.0 else f"{whole_percent_below(lowest)} or more agree"
    if lowest < AGREEMENT_AIM:
        known, words = misread_words(run.evaluation)
        sentences += [f"The aim is {percent(AGREEMENT_AIM, 0)} of every class.", words]
        return Headline(title, headline if known else "Could not tell", "warn", tuple(sentences))
    return Headline(title, headline, "good", tuple(sentences))


def overall(shares: dict[str, Estimate]) -> float | None:
    """Return the share over all classes together, weighted by their sizes (None if there are none)."""
    total = sum(value.n for value in shares.values())
    if total == 0:
        return None
    return sum(value.value * value.n for value in shares.values()) / total
