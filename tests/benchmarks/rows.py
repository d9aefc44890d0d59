"""One line of the benchmark table: a ratio, its spread over rounds, and the goal it is held against."""

from __future__ import annotations

import statistics
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """A measured ratio.

    Attributes:
        name: what is compared with what.
        ratios: one value a round; ours and the peer's figures of a round are measured back to back.
        goal: the bound; at_least: whether the ratio should lie above it (else below).
        detail: the absolute figures behind it, in words.
    """

    name: str
    ratios: tuple[float, ...]
    goal: float
    at_least: bool
    detail: str

    @property
    def median(self) -> float:
        """The middle ratio over the rounds."""
        return statistics.median(self.ratios)

    @property
    def met(self) -> bool:
        """Whether the median reaches the goal."""
        return self.median >= self.goal if self.at_least else self.median <= self.goal

    def text(self) -> str:
        """The row as one line."""
        sign = ">=" if self.at_least else "<="
        spread = f"{min(self.ratios):.2f}-{max(self.ratios):.2f}"
        state = "met" if self.met else "NOT MET"
        return f"{self.name}: {self.median:.2f} ({spread}), goal {sign} {self.goal:g}: {state}; {self.detail}"
