"""What an evaluation's numbers say, in words that are true at their intervals, for every page."""

from __future__ import annotations

import math

from pipeline.artifacts.evaluation_report import Estimate, EvaluationReport, Fidelity
from pipeline.wording.power import noticeable_excess, round_up

RELEVANT_AUC = 0.02
"""A change in test AUC that matters: the gain published for adding up to ten times as many synthetic images
(Khosravi et al., eBioMedicine 2024). Where an interval still holds a larger one, of either sign, the test
could not tell; where it does not, there is no measurable effect (two one-sided tests, Schuirmann 1987)."""
LIKELY = 1.6448536269514722 / 1.959963984540054
"""Half width of a 90 % interval over that of a 95 % interval, both of a normal estimate."""

AGREEMENT_AIM = 0.90
"""Share of each class that a classifier trained on real scans should read as intended."""


def lies_within(interval: tuple[float, float]) -> bool:
    """Return whether an interval of a change in AUC holds no change that matters."""
    return max(abs(interval[0]), abs(interval[1])) <= RELEVANT_AUC


def effect_words(verdict: str, difference: Estimate) -> str:
    """Return what the interval of a change in AUC excludes, and what it would take to see more.

    The half width of an interval falls with the root of the number of independent cases, so that of n test
    scans n (half width / `RELEVANT_AUC`)^2 are needed; at least, as seeds of the classifier add to it too.
    """
    if difference.low is None or difference.high is None:
        return "There is no interval: too few test scans of a class."
    if verdict == "no measurable effect":
        return (
            f"An effect of more than {RELEVANT_AUC:g} is excluded; one between {difference.low:+.4f} and "
            f"{difference.high:+.4f} would not have been seen."
        )
    if verdict in ("helps", "harms"):
        return ""
    need = round_up(difference.n * ((difference.high - difference.low) / 2 / RELEVANT_AUC) ** 2)
    takes = f"To see an effect of {RELEVANT_AUC:g} it takes at least {need:,} test scans, of which there are "
    takes += f"{difference.n:,}."
    if verdict == "could not tell":
        return f"Anything from {difference.low:+.4f} to {difference.high:+.4f} may be true. {takes}"
    side = "above" if verdict == "possibly helps" else "below"
    return f"The simultaneous 90 % interval lies {side} zero, the 95 % one does not. {takes}"


def chance_words(report: EvaluationReport) -> str:
    """Return of which classes agreement cannot be told from chance; "" if of none.

    The intervals of a class and of its shuffled control meet. Where its share is the larger one, so many
    images keep them apart: half widths fall with the root of the number.
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
        takes = f", some {round_up(share.n * (halves / gap) ** 2):,} images would tell" if gap > 0 else ""
        said.append(f"{name} ({share.n:,} images{takes})")
    if not said:
        return ""
    return f"Agreement cannot be told from chance, the control, for {'; '.join(said)}."


def misread_words(report: EvaluationReport) -> tuple[bool, str]:
    """Return whether classes below the aim are misread for their labels, as far as can be told, and words.

    A class that the same classifier reads no better on real scans says nothing about the labels: the
    intervals of both shares meet. False where that holds for all classes below the aim.
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
        interval = f"{_percent(own.low)} to {_percent(own.high)}"
        said = f"{name} ({_percent(own.value)} of {own.n:,} real scans, 95 % interval {interval})"
        below = share.high is not None and share.high < own.low
        (worse if below else no_better).append(said)
    parts = []
    if worse:
        parts.append(f"It reads real scans better: {', '.join(worse)}.")
    if no_better:
        parts.append(
            "Whether the labels or the classifier are at fault cannot be told where it does not clearly read "
            f"real scans better: {', '.join(no_better)}."
        )
    return bool(worse), " ".join(parts)


def fidelity_words(part: Fidelity) -> str:
    """Return whether synthetic images lie farther from real scans than real scans do, as far as can be told.

    The difference of both distances is taken with the half widths of their intervals in quadrature
    (Schenker and Gentleman 2001); they share the val scans, which makes the true one narrower.
    """
    kid, floor = part.kid, part.kid_floor
    if kid.low is None or kid.high is None or floor.low is None or floor.high is None:
        return "could not tell: too few images for an interval"
    half = math.hypot((kid.high - kid.low) / 2, (floor.high - floor.low) / 2)
    excess = kid.value - floor.value
    interval = f"95 % interval {_short(excess - half)} to {_short(excess + half)}"
    farther = "farther from real scans than these are from one another"
    if excess > half:
        return f"{farther}, by {_short(excess)} ({interval})"
    if excess > LIKELY * half:
        return f"possibly {farther}, by {_short(excess)} ({interval}; the 90 % interval lies above 0)"
    seen = noticeable_excess(half)
    sizes = f"{part.num_synthetic:,} synthetic and {part.num_real:,} real images"
    if seen <= floor.high:
        return f"not told from real scans; {_short(seen)} above the floor would have been noticed"
    said = f"could not tell: of {sizes} only an excess of {_short(seen)} or more would be noticed"
    if excess <= 0:
        return said
    return f"{said}; one of {_short(excess)}, as measured, takes about {_times(seen, excess)} times as many"


def _times(seen: float, excess: float) -> str:
    """Return how many times as many images make an excess noticeable: errors fall with the root of them."""
    times = (seen / excess) ** 2
    return f"{times:.1f}" if times < 10 else f"{round_up(times):,}"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def _short(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
