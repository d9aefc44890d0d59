"""The memory of an evaluation is that of all classifiers that train at a time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.cost.estimate import Workload
from pipeline.errors import UsageError
from pipeline.evaluate import EvaluateSettings, run_evaluate, training
from pipeline.evaluate.plan import estimate_evaluate, not_counted

SETTINGS = EvaluateSettings(seeds=1, ratios=(1.0,), num_steps=4, encoder_steps=4, batch_size=32)
WORK = Workload(2000, 100, 100, 200, 100, num_classes=3, image_size=(64, 64), bytes_a_pixel=1)


def test_every_worker_holds_its_train_images_and_its_backward_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "step_seconds", lambda *_arguments: 0.01)
    monkeypatch.setattr("pipeline.cost.estimate.resident_bytes", lambda: 0)

    def memory(workers: int, work: Workload = WORK, settings: EvaluateSettings = SETTINGS) -> int:
        monkeypatch.setattr(training, "num_workers", lambda: workers)
        return estimate_evaluate(settings, work, num_released=50).memory_bytes

    a_worker = memory(3) - memory(2)
    assert a_worker > 2000 * 64 * 64
    assert memory(10) - memory(2) == pytest.approx(8 * a_worker, rel=0.02)
    larger = SETTINGS.model_copy(update={"batch_size": 64})
    more = memory(2, settings=larger) - memory(2)
    twice = memory(2, replace(WORK, bytes_a_pixel=2))
    assert twice - memory(2) == pytest.approx(2 * 2 * 2050 * 64 * 64 + 250 * 64 * 64, rel=0.02)
    # Of each scan more: at the least the first stage's 32 channels.
    assert more >= 2 * 32 * (32 * 64 * 64 * 4)
    assert memory(2, replace(WORK, num_test=1100)) - memory(2) == pytest.approx(1000 * 64 * 64, rel=0.02)


def test_more_workers_take_less_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "step_seconds", lambda *_arguments: 1.0)
    seconds = []
    for workers in (1, 5):
        monkeypatch.setattr(training, "num_workers", lambda count=workers: count)
        seconds.append(estimate_evaluate(SETTINGS, WORK, num_released=50).seconds)
    # Eight classifiers of four steps, then the encoder.
    assert seconds[0] - seconds[1] == pytest.approx(32 - 32 / 5)


def test_the_smallest_images_can_be_estimated_too() -> None:
    small = replace(WORK, image_size=(8, 8))
    assert estimate_evaluate(SETTINGS, small, num_released=50).seconds > 0


@pytest.mark.parametrize(
    "own", [{"classifier": "command", "command": "python train.py"}, {"classifier": "a.b:f"}]
)
def test_a_classifier_of_ones_own_is_said_to_be_unknown_and_not_taken_for_a_built_in_one(
    monkeypatch: pytest.MonkeyPatch, own: dict[str, str]
) -> None:
    monkeypatch.setattr(training, "step_seconds", lambda *_arguments: 1.0)
    settings = SETTINGS.model_copy(update={**own, "classifier_minutes": 12.0})
    costs = [
        estimate_evaluate(settings.model_copy(update={"num_steps": steps, "batch_size": size}), WORK, 50)
        for steps, size in ((4, 32), (4000, 64))
    ]
    # The encoder alone is timed; memory is that of the images alone.
    assert [cost.seconds for cost in costs] == pytest.approx([SETTINGS.encoder_steps + 3.0] * 2)
    assert costs[0].memory_bytes == pytest.approx(costs[1].memory_bytes, rel=0.02)
    built_in = estimate_evaluate(SETTINGS, WORK, 50)
    assert costs[0].disk_bytes - built_in.disk_bytes >= 2350 * 64 * 64
    assert not_counted(SETTINGS) == ""
    assert "not counted: up to 8 trainings, each ended after 12 min" in not_counted(settings)


def test_a_classifier_that_needs_larger_images_is_refused(cohort: Path, release: Path) -> None:
    settings = SETTINGS.model_copy(update={"classifier": "densenet121"})
    with pytest.raises(UsageError, match=r"at least 31 pixels a side; these are 16x16"):
        run_evaluate(release, cohort, cohort.parent / "unused", settings, seed=0)
    assert not (cohort.parent / "unused").exists()
    with pytest.raises(UsageError, match="at least 31 pixels"):
        estimate_evaluate(settings, replace(WORK, image_size=(28, 28)), num_released=50)
