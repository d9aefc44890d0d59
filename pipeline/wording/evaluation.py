"""Sentences that interpret an evaluation, true at its intervals; every page uses them."""

from __future__ import annotations

import math

from pipeline.artifacts.evaluation_report import Estimate, EvaluationReport, Fidelity, Outcome, PairedTest
from pipeline.rendering.formats import p_value, plain_percent
from pipeline.wording.power import noticeable_excess, round_up

RELEVANT_AUC = 0.02
"""A change in test AUC that matters: the gain published for adding up to ten times as many synthetic images
(Khosravi et al., eBioMedicine 2024). If an interval contains a larger change, of either sign, the test could
not tell; if it does not, there is no measurable effect (two one-sided tests, Schuirmann 1987)."""
LIKELY = 1.6448536269514722 / 1.959963984540054
"""Half width of a 90 % interval divided by that of a 95 % interval, both of a normal estimate."""

AGREEMENT_AIM = 0.90
"""Share of each class that a classifier trained on real scans should classify as intended."""


def lies_within(interval: tuple[float, float]) -> bool:
    """Return whether an interval of a change in AUC contains no change that matters."""
    return max(abs(interval[0]), abs(interval[1])) <= RELEVANT_AUC


def verdict_of(sure: Estimate, likely: Estimate | None = None) -> Outcome:
    """Return what a change in AUC shows.

    Args:
        sure: the change with its 95 % interval.
        likely: the change with its 90 % interval, of which `possibly` is said; None to leave that out.
    """
    if sure.low is None or sure.high is None:
        return "could not tell"
    if sure.low > 0:
        return "helps"
    if sure.high < 0:
        return "harms"
    if likely is not None and likely.low is not None and likely.high is not None:
        if likely.low > 0:
            return "possibly helps"
        if likely.high < 0:
            return "possibly harms"
    return "no measurable effect" if lies_within((sure.low, sure.high)) else "could not tell"


def change_words(change: Estimate, more: str = "") -> str:
    """Return a change with its 95 % interval in brackets, in which `more` stands too."""
    interval = "no interval"
    if change.low is not None and change.high is not None:
        interval = f"95 % interval {change.low:+.4f} to {change.high:+.4f}"
    return f"{change.value:+.4f} ({', '.join(filter(None, (interval, more)))})"


def effect_words(verdict: str, difference: Estimate) -> str:
    """Return which effects the interval of a change in AUC excludes, and how many test scans would show more.

    The half width of an interval decreases with the square root of the number of independent cases. With n
    test scans, n (half width / `RELEVANT_AUC`)^2 are therefore needed. This is a lower bound, because the
    seeds of the classifier contribute to the interval too.
    """
    if difference.low is None or difference.high is None:
        return "There is no interval: a class has too few test scans."
    if verdict == "no measurable effect":
        return (
            f"An effect of more than {RELEVANT_AUC:g} is excluded; one between {difference.low:+.4f} and "
            f"{difference.high:+.4f} would not have been detected."
        )
    if verdict in ("helps", "harms"):
        return ""
    need = round_up(difference.n * ((difference.high - difference.low) / 2 / RELEVANT_AUC) ** 2)
    takes = f"Detecting an effect of {RELEVANT_AUC:g} needs at least {need:,} test scans; there are "
    takes += f"{difference.n:,}."
    if need <= difference.n:
        # Narrow enough, but not centred: it must lie on one side of zero, or within the bounds.
        room = max(RELEVANT_AUC - abs(difference.value), abs(difference.value))
        need = round_up(difference.n * ((difference.high - difference.low) / 2 / room) ** 2)
        takes = f"A verdict at this difference needs about {need:,} test scans; there are {difference.n:,}."
    if verdict == "could not tell":
        return f"The effect may be anything from {difference.low:+.4f} to {difference.high:+.4f}. {takes}"
    side = "above" if verdict == "possibly helps" else "below"
    return f"The 90 % interval lies {side} zero; the 95 % interval does not. {takes}"


def delong_words(test: PairedTest | None) -> str:
    """Return DeLong's test of the pair that a verdict compares, and what it leaves out; "" without one."""
    if test is None:
        return ""
    found = test.difference
    said = "DeLong's test of the same two arms, on probabilities averaged over the seeds"
    if found.low is None or found.high is None:
        return f"{said}: {found.value:+.4f}. Its standard error is 0, so there is no interval."
    p = p_value(test.p_value).replace("\u00a0", " ")
    p = f"p {p}" if p.startswith("<") else f"p = {p}"
    return (
        f"{said}: {change_words(found, p)}. It takes the scans as independent, whatever "
        "patient they are of, and the classifiers as fixed. The verdict rests on the bootstrap over patients "
        "and classifier seeds."
    )


def chance_words(report: EvaluationReport) -> str:
    """Return the classes whose label agreement cannot be distinguished from chance; "" if there are none.

    These are the classes whose interval overlaps that of their shuffled control. If the share of the class is
    the larger one, the number of images that would separate the intervals is given: half widths decrease with
    the square root of the number of images.
    """
    said = []
    for name, share in report.label_agreement.items():
        control = report.label_agreement_shuffled.get(name)
        if control is None:
            continue
        low = share.value if share.low is None else share.low
        high = control.value if control.high is None else control.high
        if low > high:
            continue
        gap = share.value - control.value
        halves = (share.value - low) + (high - control.value)
        takes = f", about {round_up(share.n * (halves / gap) ** 2):,} needed to tell" if gap > 0 else ""
        said.append(f"{name} ({share.n:,} images{takes})")
    if not said:
        return ""
    return f"Agreement cannot be distinguished from chance (the control) for {'; '.join(said)}."


def misread_words(report: EvaluationReport) -> tuple[bool, str]:
    """Return whether wrong labels are known to explain the classes below the aim, and the sentences to show.

    A class says nothing about its labels if the same classifier is no better on real scans, that is, if the
    intervals of both shares overlap. The first value is False if this holds for all classes below the aim.
    """
    low = [name for name, share in report.label_agreement.items() if share.value < AGREEMENT_AIM]
    real = report.label_agreement_real
    worse: list[str] = []
    no_better: list[str] = []
    for name in low:
        share, own = report.label_agreement[name], real.get(name)
        if own is None or own.low is None or own.high is None:
            no_better.append(f"{name} (real scans: not measured)")
            continue
        interval = f"{plain_percent(own.low)} to {plain_percent(own.high)}"
        said = f"{name} ({plain_percent(own.value)} of {own.n:,} real scans, 95 % interval {interval})"
        below = share.high is not None and share.high < own.low
        (worse if below else no_better).append(said)
    parts = []
    if worse:
        parts.append(f"The classifier is better on real scans: {', '.join(worse)}.")
    if no_better:
        parts.append(
            "The evaluation could not tell whether the labels or the classifier are at fault where the "
            f"classifier is not clearly better on real scans: {', '.join(no_better)}."
        )
    return bool(worse), " ".join(parts)


def fidelity_words(part: Fidelity) -> str:
    """Return what the intervals show about how much farther synthetic images are from real scans.

    The interval of the difference adds the half widths of both intervals in quadrature (Schenker and
    Gentleman 2001). Both distances use the same val scans, so the true interval is narrower.
    """
    kid, floor = part.kid, part.kid_floor
    if kid.low is None or kid.high is None or floor.low is None or floor.high is None:
        return "could not tell: too few images for an interval"
    half = math.hypot((kid.high - kid.low) / 2, (floor.high - floor.low) / 2)
    excess = kid.value - floor.value
    interval = f"95 % interval {_short(excess - half)} to {_short(excess + half)}"
    farther = "farther from real scans than real scans are from each other"
    if excess > half:
        return f"{farther}, by {_short(excess)} ({interval})"
    if excess > LIKELY * half:
        return f"possibly {farther}, by {_short(excess)} ({interval}; the 90 % interval lies above 0)"
    seen = noticeable_excess(half)
    sizes = f"{part.num_synthetic:,} synthetic and {part.num_real:,} real images"
    if seen <= floor.high:
        return f"not distinguished from real scans; {_short(seen)} above the floor would have been detected"
    said = f"could not tell: with {sizes}, only an excess of {_short(seen)} or more would be detected"
    if excess <= 0:
        return said
    return f"{said}; the measured one of {_short(excess)} needs about {_times(seen, excess)} times as many"


def detail_words(part: Fidelity) -> str:
    """Return whether synthetic images have less or more fine detail than real ones; empty if neither."""
    found = {own.name: own for own in part.distances}.get("detail_power")
    if found is None or not isinstance(found.value, Estimate) or not isinstance(found.floor, Estimate):
        return ""
    (low, high), (below, above) = ((own.low, own.high) for own in (found.value, found.floor))
    if low is None or high is None or below is None or above is None:
        return ""
    share = f"{found.value.value:.2f} of the power of real scans in the finest octave"
    if high < below:
        return f"blurred: {share}"
    return f"noisy: {share}" if low > above else ""


def _times(seen: float, excess: float) -> str:
    """Return by what factor more images would show an excess: errors decrease with the root of the number."""
    times = (seen / excess) ** 2
    return f"{times:.1f}" if times < 10 else f"{round_up(times):,}"


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
