"""One line of the benchmark table: a figure, its spread over rounds, and the goal it is held against."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict, dataclass
from typing import Any

MARKDOWN_HEAD = "| figure | measured | goal | | how |\n|---|---|---|---|---|"


@dataclass(frozen=True)
class Row:
    """A measured ratio, or a figure with a unit.

    Attributes:
        name: what is compared with what.
        ratios: one value a round; ours and the peer's figures of a round are measured back to back.
        goal: the bound; None for a figure that is only reported, such as a peer's own.
        at_least: whether the ratio should lie above the goal (else below).
        detail: the absolute figures behind it, in words.
        unit: of the figure; empty for a ratio.
    """

    name: str
    ratios: tuple[float, ...]
    goal: float | None
    at_least: bool
    detail: str
    unit: str = ""

    @property
    def median(self) -> float:
        """The middle ratio over the rounds."""
        return statistics.median(self.ratios)

    @property
    def met(self) -> bool:
        """Whether the median reaches the goal; a row without a goal is never missed."""
        if self.goal is None:
            return True
        return self.median >= self.goal if self.at_least else self.median <= self.goal

    @property
    def measured(self) -> str:
        """The median, with the range over the rounds where there are several."""
        unit = f" {self.unit}" if self.unit else ""
        if len(self.ratios) == 1:
            return f"{_short(self.median)}{unit}"
        return f"{_short(self.median)}{unit} ({_short(min(self.ratios))}-{_short(max(self.ratios))})"

    def text(self) -> str:
        """The row as one line."""
        if self.goal is None:
            return f"{self.name}: {self.measured}, no goal; {self.detail}"
        return f"{self.name}: {self.measured}, goal {self._bound()}: {self._state()}; {self.detail}"

    def markdown(self) -> str:
        """The row as a line of a Markdown table under `MARKDOWN_HEAD`."""
        bound, state = ("", "") if self.goal is None else (self._bound(), self._state())
        cells = (self.name, self.measured, bound, state, self.detail)
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values; a figure that is not finite is given as its name."""
        rounds = [value if math.isfinite(value) else str(value) for value in self.ratios]
        return {**asdict(self), "ratios": rounds, "met": None if self.goal is None else self.met}

    def _bound(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.goal:g}"

    def _state(self) -> str:
        return "met" if self.met else "NOT MET"


@dataclass(frozen=True)
class Skipped:
    """A row that could not be measured here, with the reason; it neither meets nor misses a goal."""

    name: str
    reason: str
    met: bool = True

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    def text(self) -> str:
        """The row as one line."""
        return f"{self.name}: not measured; {self.reason}"

    def markdown(self) -> str:
        """The row as a line of a Markdown table under `MARKDOWN_HEAD`."""
        return f"| {self.name} | not measured | | | {self.reason} |"


def _short(value: float) -> str:
    size = abs(value)
    if 0 < size < 0.001:
        return f"{value:.1e}"
    if 100 <= size < math.inf:
        return f"{value:,.0f}"
    return f"{value:.3f}" if 0 < size < 0.1 else f"{value:.2f}"
