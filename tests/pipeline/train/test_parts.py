"""The steps of a time budget follow the speed, and the learning rate falls to zero with the last."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.cost.time_budget import Decision, TimeBudget
from pipeline.train.parts import ScheduleSettings

SETTINGS = ScheduleSettings(num_steps=100_000, max_minutes=10, warmup_steps=50, learning_rate=1e-3)


def simulate(settings: ScheduleSettings, step_seconds: list[float]) -> tuple[int, float, list[Decision]]:
    """Train on a clock of our own whose speed changes over equal parts of the steps done; return the end."""
    decisions: list[Decision] = []
    assert settings.max_minutes is not None
    budget = TimeBudget(60.0 * settings.max_minutes, settings.num_steps, decisions)
    step, seconds = 0, 0.0
    while step < settings.num_steps_of(decisions):
        minute = min(int(seconds / 60), len(step_seconds) - 1)
        seconds += step_seconds[minute]
        step += 1
        decided = budget.review(step, seconds)
        if decided is not None:
            decisions.append(decided)
    return step, seconds, decisions


def test_a_steady_machine_decides_once_early_and_uses_the_budget() -> None:
    step, seconds, decisions = simulate(SETTINGS, [0.3])
    assert len(decisions) == 1
    at, num_steps = decisions[0]
    assert at * 0.3 < 0.05 * 600
    assert num_steps == step
    assert 0.98 * 600 < seconds <= 600


def test_a_machine_that_becomes_slower_cuts_its_steps_and_stays_near_the_budget() -> None:
    step, seconds, decisions = simulate(SETTINGS, [0.2, 0.2, 0.5, 0.5, 0.9])
    assert len(decisions) > 1
    assert all(later[1] < before[1] for before, later in pairwise(decisions))
    assert 0.85 * 600 < seconds < 1.06 * 600
    rates = [SETTINGS.learning_rate_at(number, decisions) for number in range(step)]
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert rates[-1] < 1e-3 * SETTINGS.learning_rate


def test_a_machine_that_was_slow_for_a_while_uses_the_rest_of_the_budget() -> None:
    step, seconds, decisions = simulate(SETTINGS, [0.2, 0.2, 0.6, 0.6, 0.2])
    assert any(later[1] < before[1] for before, later in pairwise(decisions))
    assert decisions[-1][1] > min(num_steps for _, num_steps in decisions)
    assert 0.95 * 600 < seconds < 1.06 * 600
    rates = [SETTINGS.learning_rate_at(number, decisions) for number in range(step)]
    assert rates[50:] == sorted(rates[50:], reverse=True)
    assert rates[-1] < 1e-3 * SETTINGS.learning_rate


def test_num_steps_stays_the_upper_bound() -> None:
    few = SETTINGS.model_copy(update={"num_steps": 300})
    step, seconds, _ = simulate(few, [0.3])
    assert step == 300
    assert seconds < 100


@pytest.mark.parametrize("warmup", [0, 50])
def test_a_budget_that_all_steps_fit_into_changes_no_learning_rate(warmup: int) -> None:
    few = SETTINGS.model_copy(update={"num_steps": 300, "warmup_steps": warmup})
    _, _, decisions = simulate(few, [0.3])
    assert decisions[0][1] == 300
    plain = few.model_copy(update={"max_minutes": None})
    budgeted = [few.learning_rate_at(step, decisions) for step in range(300)]
    assert budgeted == [plain.learning_rate_at(step) for step in range(300)]


@pytest.mark.parametrize("step_seconds", [700.0, 200.0])
def test_a_budget_of_a_few_steps_ends_after_them(step_seconds: float) -> None:
    step, _, _ = simulate(SETTINGS, [step_seconds])
    assert step <= 5


def test_time_of_earlier_runs_counts() -> None:
    budget = TimeBudget(600.0, SETTINGS.num_steps)
    assert budget.review(1000, 500.0) is None
    assert budget.review(1100, 550.0) == (1100, 1200)


@given(
    first=st.integers(5, 400),
    changes=st.lists(st.integers(-500, 500), min_size=1, max_size=5),
    warmup=st.integers(0, 300),
)
def test_a_rate_never_rises_after_the_warm_up_and_depends_only_on_decisions_made_before(
    first: int, changes: list[int], warmup: int
) -> None:
    settings = ScheduleSettings(num_steps=10_000, max_minutes=1, warmup_steps=warmup)
    decisions: list[Decision] = []
    at, end = first, 5000
    for change in changes:
        end = max(at, end + change)
        decisions.append((at, end))
        at = min(at + 7, end)
    rates = [settings.learning_rate_at(step, decisions) for step in range(end)]
    after = rates[warmup:]
    assert all(later <= before + 1e-12 for before, later in pairwise(after))
    for known in range(len(decisions)):
        begin = decisions[known][0]
        assert rates[:begin] == [settings.learning_rate_at(step, decisions[:known]) for step in range(begin)]
    if end > warmup + first:
        left = end - max(warmup, decisions[-1][0])
        assert rates[-1] <= settings.learning_rate * 2.5 / max(left, 1)


def test_learning_rate_warms_up_and_falls_to_zero() -> None:
    schedule = ScheduleSettings(num_steps=100, warmup_steps=10, learning_rate=1e-3)
    rates = [schedule.learning_rate_at(step) for step in range(100)]
    assert rates[0] == pytest.approx(1e-4)
    assert max(rates) == rates[9] == pytest.approx(1e-3)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] < 1e-6
    flat = schedule.model_copy(update={"learning_rate_decay": "none"})
    assert flat.learning_rate_at(99) == pytest.approx(1e-3)
