"""Rows of the benchmark table: goals, ranges, Markdown, and options from the command line."""

from __future__ import annotations

import math

import pytest

from tests.experiments.benchmarks.__main__ import options_of
from tests.experiments.benchmarks.distributed import largest_difference
from tests.experiments.benchmarks.evaluations import Trial, fewest
from tests.experiments.benchmarks.rows import MARKDOWN_HEAD, Row, Skipped


def test_the_median_decides_and_the_range_is_shown() -> None:
    row = Row("speed", (1.9, 2.3, 2.4), 2.2, True, "2 against 1")
    assert row.met
    assert row.text() == "speed: 2.30 (1.90-2.40), goal >= 2.2: met; 2 against 1"
    assert not Row("memory", (0.9, 1.1, 1.2), 1.0, False, "").met


def test_a_row_without_a_goal_is_reported_and_never_missed() -> None:
    row = Row("peer", (0.031,), None, True, "a peer's own")
    assert row.met
    assert row.text() == "peer: 0.031, no goal; a peer's own"


def test_what_is_never_reached_misses_its_goal() -> None:
    row = Row("evaluations", (math.inf,), 20, False, "none")
    assert not row.met
    assert "inf, goal <= 20: NOT MET" in row.text()


def test_a_markdown_row_has_the_columns_of_the_head_whatever_its_text_holds() -> None:
    width = MARKDOWN_HEAD.splitlines()[0].count("|")
    rows = [
        Row("a", (1.0, 2.0), 1.0, True, "b"),
        Row("a", (1.0,), None, True, "b | c"),
        Skipped("d", "not installed"),
    ]
    for row in rows:
        assert row.markdown().replace("\\|", "").count("|") == width


def test_an_option_is_read_as_the_type_of_its_default_and_goes_to_whoever_has_it() -> None:
    def first(rounds: int = 3, minutes: float = 10.0) -> None: ...
    def second(rounds: int = 5) -> None: ...

    measures = {"first": first, "second": second}
    assert options_of(measures, ["rounds=1", "minutes=0.5"]) == {
        "first": {"rounds": 1, "minutes": 0.5},
        "second": {"rounds": 1},
    }
    with pytest.raises(ValueError, match="none of first, second has an option size"):
        options_of(measures, ["size=3"])
    with pytest.raises(ValueError, match="rounds of first must be like 3, got 'many'"):
        options_of(measures, ["rounds=many"])


def test_a_small_difference_may_be_certain_and_not_matter() -> None:
    trials = [Trial(10, 0.2, 0.03), Trial(15, 0.07, 0.015), Trial(20, 0.04, 0.009)]
    assert fewest(trials) == math.inf and fewest(trials, 0.04) == 15


def test_evaluations_count_only_from_where_all_larger_numbers_are_within() -> None:
    within = [Trial(8, 0.001, 0.002), Trial(12, 0.5, 0.002), Trial(18, -0.003, 0.002), Trial(26, 0.0, 0.001)]
    assert fewest(within) == 18
    assert fewest([*within, Trial(40, 0.5, 0.002)]) == math.inf


def test_curves_are_compared_point_by_point() -> None:
    assert largest_difference([1.0, 0.5, 0.4], [1.0, 0.55, 0.4]) == pytest.approx(0.1)
    with pytest.raises(ValueError, match="equal length"):
        largest_difference([1.0], [1.0, 2.0])
