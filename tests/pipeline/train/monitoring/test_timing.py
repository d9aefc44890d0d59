"""Where the time goes is counted when asked, and the parts make up the whole."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.artifacts.cohort import Cohort
from pipeline.records import CohortRef
from pipeline.train import TrainSettings
from pipeline.train.loop import train
from pipeline.train.monitoring.timing import NoTiming, Timing
from tests import tiny

SETTINGS = TrainSettings(
    **{**tiny.TRAIN, "precision": "bf16", "grid_every_steps": 3},
    num_steps=6,
    checkpoint_every_steps=3,
    micro_batch=4,
)


def test_the_parts_of_a_training_make_up_its_wall_time(tiny_cohort_16: CohortRef, tmp_path: Path) -> None:
    timing = Timing()
    train(Cohort(tiny_cohort_16.path), tmp_path, SETTINGS, seed=1, inputs_digest="", timing=timing)
    seconds = dict(timing.seconds)
    wall = seconds.pop("wall")
    assert set(seconds) == {
        "data", "draw", "forward", "backward", "optimizer", "average", "report", "save", "snapshot",
        "grid",
    }  # fmt: skip
    assert all(value > 0 for value in seconds.values())
    assert 0.9 * wall < sum(seconds.values()) <= wall
    computing = seconds["forward"] + seconds["backward"] + seconds["optimizer"]
    assert timing.overhead_share == pytest.approx(1 - computing / wall)


def test_without_being_asked_nothing_is_counted() -> None:
    timing = NoTiming()
    with timing.part("forward"):
        pass
    assert not timing.seconds
