"""Numbers as the report prints them: one spelling for shares, intervals, counts and durations."""

from __future__ import annotations

import math
import re

from pipeline.artifacts.evaluation_report import Estimate

NOT_KNOWN = "–"
"""Shown where a figure was not measured."""

DIGEST_CHARACTERS = 12
_SPACE = "\u00a0"
_MARKDOWN = re.compile(r"([\\`*_{}\[\]<>#|!&~])")


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share in [0, 1] as a percentage."""
    if value is None or not math.isfinite(value):
        return NOT_KNOWN
    return plain_percent(value, digits).replace(" ", _SPACE).replace("-", "−")


def plain_percent(share: float, digits: int = 1) -> str:
    """Return a share in [0, 1] as a percentage of plain text."""
    return f"{100 * share:.{digits}f} %"


def whole_percent_below(value: float) -> str:
    """Return a share as a whole percentage, rounded down, so that "or more" after it stays true."""
    return percent(math.floor(value * 100 + 1e-9) / 100, 0)


def measured_percent(value: float | None) -> str:
    """Return a share in [0, 1] as a percentage of plain text, in words where it was not measured."""
    return "not measured" if value is None else plain_percent(value)


def number(value: float | None, digits: int = 3) -> str:
    """Return a number with a fixed count of decimals and a true minus sign."""
    if value is None or not math.isfinite(value):
        return NOT_KNOWN
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−")


def signed(value: float | None, digits: int = 3) -> str:
    """Return a number with its sign always shown."""
    text = number(value, digits)
    return text if text == NOT_KNOWN or text.startswith("−") or float(text) == 0 else f"+{text}"


def p_value(value: float | None) -> str:
    """Return a p-value with three decimals, or as a bound where it is smaller."""
    if value is None or not math.isfinite(value):
        return NOT_KNOWN
    return f"<{_SPACE}0.001" if value < 0.001 else f"{value:.3f}"


def count(value: int | None) -> str:
    """Return a whole number with thousands separated."""
    return NOT_KNOWN if value is None else f"{value:,}"


def plural(value: int, one: str, many: str = "") -> str:
    """Return `1 image`, `2 images`; `many` where adding an s is wrong."""
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def percent_interval(interval: tuple[float, float] | None, digits: int = 1) -> str:
    """Return the two ends of an interval of shares."""
    if interval is None:
        return NOT_KNOWN
    return f"{percent(interval[0], digits)} to {percent(interval[1], digits)}"


def interval(value: Estimate | None, digits: int = 3) -> str:
    """Return the 95 % interval of a measured value, empty where there is none."""
    if value is None or value.low is None or value.high is None:
        return ""
    return f"{number(value.low, digits)} to {number(value.high, digits)}"


def share_interval(value: Estimate | None, digits: int = 1) -> str:
    """Return the 95 % interval of a measured share, empty where there is none."""
    if value is None or value.low is None or value.high is None:
        return ""
    return percent_interval((value.low, value.high), digits)


def duration(seconds: float | None) -> str:
    """Return seconds as people say them: `48 s`, `6 min 12 s`, `1 h 04 min`."""
    if seconds is None or not math.isfinite(seconds) or seconds < 0:
        return NOT_KNOWN
    if seconds < 10:
        return f"{seconds:.1f}{_SPACE}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}{_SPACE}s"
    if whole < 3600:
        return f"{whole // 60}{_SPACE}min {whole % 60:02d}{_SPACE}s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}{_SPACE}h {minutes % 60:02d}{_SPACE}min"


def sentence(text: str) -> str:
    """Return a clause as a sentence: a capital first, a full stop last."""
    text = text.strip()
    if not text:
        return ""
    return text[0].upper() + text[1:] + ("" if text[-1] in ".!?" else ".")


def plain(value: object) -> str:
    """Return outside text as plain Markdown: one line, every character with a meaning escaped."""
    return _MARKDOWN.sub(r"\\\1", " ".join(str(value).split()))


def digest(value: str) -> str:
    """Return the first characters of a sha256, enough to tell two outputs apart by eye."""
    return value[:DIGEST_CHARACTERS] if value else NOT_KNOWN


FILTERS = {
    "percent": percent,
    "number": number,
    "signed": signed,
    "p_value": p_value,
    "count": count,
    "plain_percent": plain_percent,
    "percent_interval": percent_interval,
    "interval": interval,
    "share_interval": share_interval,
    "duration": duration,
    "sentence": sentence,
    "digest": digest,
    "measured_percent": measured_percent,
    "plain": plain,
}
"""Filters of the templates, by name."""
