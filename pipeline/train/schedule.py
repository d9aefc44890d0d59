"""How many steps a training has and how fast it learns at each: a pure function of settings and decisions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.train.settings import TrainSettings

Decision = tuple[int, int]
"""(step at which it was made, optimiser steps of the whole training from then on)."""

MEASURED_SHARE, MEASURED_SECONDS, MEASURED_STEPS = 0.03, 60.0, 3
"""The speed is measured over this share of the time budget, at most so long, and at least so many steps."""

REVIEW_SHARE, TOLERANCE = 0.05, 1.05
"""It is looked at again after each such share. A training that would take so many times its budget, or leave
as much of it unused, is planned anew: what slows a machine for a while must not cost the rest of the time."""


def num_steps_of(settings: TrainSettings, decisions: Sequence[Decision]) -> int:
    """Return the steps of a training as decided so far."""
    return decisions[-1][1] if decisions else settings.num_steps


def num_steps_at(step: int, settings: TrainSettings, decisions: Sequence[Decision]) -> int:
    """Return the steps of the whole training as they were known after `step` steps.

    What is done at shares of a training, such as snapshots, asks this: it then falls on the same steps in a
    training that is made again from its recorded decisions.
    """
    return num_steps_of(settings, [decision for decision in decisions if decision[0] <= step])


def learning_rate(step: int, settings: TrainSettings, decisions: Sequence[Decision] = ()) -> float:
    """Return the learning rate of step `step` (counted from 0): linear warm-up, then the chosen decay.

    Under a time budget the decay begins with the first decision, and each further one stretches what is left
    of it over the steps that are left.
    """
    rate = settings.learning_rate
    if step < settings.warmup_steps:
        return rate * (step + 1) / settings.warmup_steps
    if settings.learning_rate_decay == "none":
        return rate
    return rate * 0.5 * (1.0 + math.cos(math.pi * _share(step, settings, decisions)))


def _share(step: int, settings: TrainSettings, decisions: Sequence[Decision]) -> float:
    """Return how much of the decay lies behind step `step`, in [0, 1]."""
    begin, end, done = settings.warmup_steps, settings.num_steps, 0.0
    if settings.max_minutes is not None:
        if not decisions or step < decisions[0][0]:
            return 0.0
        begin, end = max(begin, decisions[0][0]), decisions[0][1]
        for at, num_steps in decisions[1:]:
            if step < at:
                break
            if at > begin:
                done += (1.0 - done) * min((at - begin) / max(end - begin, 1), 1.0)
                begin = at
            end = num_steps
    return min(done + (1.0 - done) * (step - begin) / max(end - begin, 1), 1.0)


class TimeBudget:
    """Decides how many steps fit into `train.max_minutes`, from the measured speed.

    Args:
        settings: training settings with `max_minutes`.
        decisions: what was decided before.
    """

    def __init__(self, settings: TrainSettings, decisions: Sequence[Decision]) -> None:
        assert settings.max_minutes is not None
        self._seconds = 60.0 * settings.max_minutes
        self._settings = settings
        self._decisions = tuple(decisions)
        self._mark: tuple[int, float] | None = None

    def review(self, step: int, seconds: float) -> Decision | None:
        """Return a new decision, or None if there is nothing to decide.

        Args:
            step: steps done.
            seconds: training time so far, over all resumes.
        """
        if self._mark is None:
            # The first step also pays for what is loaded and compiled at first use.
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
        planned = num_steps_of(self._settings, self._decisions)
        fits = min(step + int(left / step_seconds), self._settings.num_steps)
        if self._decisions:
            expected = (seconds + (planned - step) * step_seconds) / self._seconds
            if step >= planned or fits == planned or 1.0 / TOLERANCE <= expected <= TOLERANCE:
                return None
        decided = (step, fits)
        self._decisions = (*self._decisions, decided)
        return decided
