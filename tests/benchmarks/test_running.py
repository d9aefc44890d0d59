"""A benchmark that has not been run for a while must still run: the quick ones are, at their smallest."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from tests.benchmarks import gate, overhead, sampling, training
from tests.benchmarks.rows import Row, Skipped

SMALL: dict[str, Callable[[], Iterable[Row | Skipped]]] = {
    "sampling": lambda: sampling.measure(rounds=1, per_class=4, train_steps=2),
    "training": lambda: training.measure(rounds=1, steps=20, image_size=8),
    "gate": lambda: gate.measure(train=64, holdout=16, candidates=8, size=16, features=400),
    "overhead": lambda: overhead.measure(rounds=1, steps=20, image_size=8),
}


SLOWER = "training"
"""Each of its rows starts processes of three libraries: over half a minute on a busy machine."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == SLOWER else ()) for name in SMALL]
)
def test_it_runs_and_gives_ratios(name: str) -> None:
    rows = [row for row in SMALL[name]() if isinstance(row, Row)]
    assert rows
    assert all(ratio > 0 for row in rows for ratio in row.ratios)
