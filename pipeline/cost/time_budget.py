"""Number of steps that fit into a time budget: decided once the speed is known, and when it changes."""

from __future__ import annotations

from collections.abc import Sequence

Decision = tuple[int, int]
"""(step of the decision, total number of steps from then on)."""

MEASURED_SHARE, MEASURED_SECONDS, MEASURED_STEPS = 0.03, 60.0, 3
"""Share of the time budget over which the speed is measured, its longest duration in seconds, and the
smallest number of steps."""

REVIEW_SHARE, TOLERANCE = 0.05, 1.05
"""Share of the time budget after which the speed is reviewed, and the ratio of expected time to budget (or
its inverse) above which the steps are planned again. So a machine that is slow for a while does not lose the
rest of its time."""


def planned_steps(most: int, decisions: Sequence[Decision]) -> int:
    """Return the total number of steps as decided so far; `most` before the first decision."""
    return decisions[-1][1] if decisions else most


class TimeBudget:
    """Decides how many steps fit into a time, from the measured speed.

    Args:
        seconds: time budget.
        most: upper limit of the steps, for any speed.
        decisions: earlier decisions.
    """

    def __init__(self, seconds: float, most: int, decisions: Sequence[Decision] = ()) -> None:
        self._seconds, self._most = seconds, most
        self._decisions = tuple(decisions)
        self._mark: tuple[int, float] | None = None

    @property
    def num_steps(self) -> int:
        """Total number of steps as decided so far."""
        return planned_steps(self._most, self._decisions)

    def review(self, step: int, seconds: float) -> Decision | None:
        """Return a new decision, or None if none is needed.

        Args:
            step: steps done.
            seconds: time spent on these steps, over all resumes.
        """
        if self._mark is None:
            # The first step includes loading and compiling.
            self._mark = (step, seconds)
            return None
        steps, elapsed = step - self._mark[0], seconds - self._mark[1]
        share = MEASURED_SHARE * self._seconds
        enough = min(share, MEASURED_SECONDS) if not self._decisions else REVIEW_SHARE * self._seconds
        if steps < MEASURED_STEPS or elapsed < enough:
            return None
        self._mark = (step, seconds)
        step_seconds = max(elapsed / steps, 1e-9)
        left = max(self._seconds - seconds, 0.0)
        planned = self.num_steps
        fits = min(step + int(left / step_seconds), self._most)
        if self._decisions:
            expected = (seconds + (planned - step) * step_seconds) / self._seconds
            if step >= planned or fits == planned or 1.0 / TOLERANCE <= expected <= TOLERANCE:
                return None
        decided = (step, fits)
        self._decisions = (*self._decisions, decided)
        return decided
