"""How many steps a training has and how fast it learns at each: a pure function of settings and decisions."""

from __future__ import annotations

import math
from collections.abc import Sequence

from pipeline.cost.time_budget import Decision, planned_steps
from pipeline.train.settings import TrainSettings


def num_steps_of(settings: TrainSettings, decisions: Sequence[Decision]) -> int:
    """Return the steps of a training as decided so far."""
    return planned_steps(settings.num_steps, decisions)


def num_steps_at(step: int, settings: TrainSettings, decisions: Sequence[Decision]) -> int:
    """Return the steps of the whole training as they were known after `step` steps.

    What is done at shares of a training, such as snapshots, asks this: it then falls on the same steps in a
    training that is made again from its recorded decisions.
    """
    return num_steps_of(settings, [decision for decision in decisions if decision[0] <= step])


def learning_rate(step: int, settings: TrainSettings, decisions: Sequence[Decision] = ()) -> float:
    """Return the learning rate of step `step` (counted from 0): linear warm-up, then the chosen decay.

    Under a time budget each decision that changes the number of steps stretches what is left of the decay
    over the steps that are left. A budget that all steps fit into changes nothing.
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
    for at, num_steps in decisions:
        if step < at:
            break
        if num_steps == end:
            continue
        if at > begin:
            done += (1.0 - done) * min((at - begin) / max(end - begin, 1), 1.0)
            begin = at
        end = num_steps
    return min(done + (1.0 - done) * (step - begin) / max(end - begin, 1), 1.0)
