"""Training stops when the loss on scans never seen rises above the loss on scans seen, and only then."""

from __future__ import annotations

import csv
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from pipeline.artifacts.checkpoint import load_denoiser, read_checkpoint_info
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.conditions import CohortConditions
from pipeline.records import CheckpointRef, CohortRef
from pipeline.train import TrainSettings, run_train
from pipeline.train.latent.sources import PixelSource
from pipeline.train.monitoring.early_stopping import Row, is_open, step_before_gap
from pipeline.train.monitoring.memorisation_gap import Gap, PairedScans
from pipeline.train.parts import ObjectiveSettings
from tests import tiny
from tests.cohorts import write_cohort

FIELDS: Mapping[str, Any] = {
    **tiny.TRAIN,
    "num_steps": 400,
    "batch_size": 16,
    "learning_rate": 4e-3,
    "warmup_steps": 10,
    "channels": (16, 32),
    "attention": (False, False),
    "checkpoint_every_steps": 60,
    "ema_snapshots": 10,
    "stop_when_memorising": True,
}


@pytest.fixture(scope="module")
def scarce(tmp_path_factory: pytest.TempPathFactory) -> CohortRef:
    """Return a cohort of 22 train scans and many val scans."""
    return write_cohort(
        tmp_path_factory.mktemp("scarce") / "cohort",
        num_scans=200,
        image_size=16,
        images_per_patient=1,
        shares=(0.1, 0.6, 0.15, 0.15),
    )


@pytest.fixture(scope="module")
def stopped(scarce: CohortRef, tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    return run_train(
        scarce, tmp_path_factory.mktemp("scarce") / "checkpoint", TrainSettings(**FIELDS), seed=1
    )


def curve(folder: Path) -> list[dict[str, str]]:
    with (folder / "memorisation.csv").open() as stream:
        return list(csv.DictReader(stream))


def rows(*gaps: float) -> list[Row]:
    """Return measurements 10 steps apart with a standard error of 0.01 and a val loss of 1."""
    return [(10 * place, Gap(1 - gap, 1.0, gap, 0.01)) for place, gap in enumerate(gaps, 1)]


def test_an_overfitting_run_stops_and_keeps_the_weights_from_before(stopped: CheckpointRef) -> None:
    info = read_checkpoint_info(stopped.path)
    measured = curve(stopped.path)
    assert info.ema_step is not None
    assert info.ema_step < info.num_steps < 400
    assert [int(row["step"]) for row in measured] == list(range(40, info.num_steps + 1, 40))
    gaps = {int(row["step"]): float(row["gap"]) for row in measured}
    assert gaps[info.num_steps] > 2 * gaps[info.ema_step]
    # Nothing of after the gap opened is among what may be sampled from.
    assert info.snapshots[-1] == info.ema_step
    denoiser, _ = load_denoiser(stopped.path)
    kept, _ = load_denoiser(stopped.path, ema_length=0.10, step=info.ema_step)
    assert all(one.equal(two) for one, two in zip(denoiser.parameters(), kept.parameters(), strict=True))
    assert stopped.counts["steps"] == info.num_steps


@pytest.mark.parametrize("lost", ["the curve", "the last state"])
def test_a_run_killed_around_the_stop_comes_to_the_same_checkpoint(
    scarce: CohortRef, stopped: CheckpointRef, lost: str
) -> None:
    folder = stopped.path
    before = (folder / "memorisation.csv").read_bytes()
    for name in ("reference.json", "model.safetensors", "checkpoint.json"):
        (folder / name).unlink()
    if lost == "the curve":
        (folder / "memorisation.csv").unlink()
    else:
        max((folder / "state").iterdir()).unlink()
    assert run_train(scarce, folder, TrainSettings(**FIELDS), seed=1).digest == stopped.digest
    assert (folder / "memorisation.csv").read_bytes() == before


def test_a_run_on_plenty_of_scans_goes_on_to_its_last_step(tmp_path: Path) -> None:
    cohort = write_cohort(
        tmp_path / "cohort",
        num_scans=400,
        image_size=8,
        images_per_patient=1,
        shares=(0.7, 0.2, 0.05, 0.05),
    )
    settings = TrainSettings(**{**FIELDS, "num_steps": 100, "channels": (8, 16), "ema_snapshots": 5})
    made = run_train(cohort, tmp_path / "checkpoint", settings, seed=1)
    info = read_checkpoint_info(made.path)
    assert (info.num_steps, info.ema_step, len(curve(made.path))) == (100, 100, 5)


def test_too_few_val_scans_are_told_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cohort = write_cohort(tmp_path / "cohort", num_scans=60, image_size=8, shares=(0.7, 0.1, 0.1, 0.1))
    settings = TrainSettings(**{**FIELDS, "num_steps": 4, "channels": (8, 16)})
    with caplog.at_level(logging.WARNING, logger="pipeline.train.monitoring.early_stopping"):
        made = run_train(cohort, tmp_path / "checkpoint", settings, seed=1)
    assert "it needs 12 pairs of train and val scans" in caplog.text
    assert read_checkpoint_info(made.path).num_steps == 4
    assert not (made.path / "memorisation.csv").exists()


def test_pairs_share_their_class_and_come_from_train_and_val(scarce: CohortRef) -> None:
    cohort = Cohort(scarce.path)
    pairs = PairedScans(cohort, PixelSource(cohort), CohortConditions(cohort), ObjectiveSettings(), seed=1)
    assert len(pairs) > 12
    assert set(cohort.split[pairs.train]) == {0}
    assert set(cohort.split[pairs.val]) == {1}
    assert (cohort.labels[pairs.train] == cohort.labels[pairs.val]).all()
    assert len(set(pairs.val.tolist())) == len(pairs)


@pytest.mark.parametrize(
    ("gaps", "kept"),
    [
        ((0.0, 0.01, 0.08), None),  # open once: it may be chance
        ((0.0, 0.01, 0.08, 0.09), 20),  # open twice and widening: back to the last one before
        ((0.0, 0.01, 0.09, 0.08), None),  # open, but closing again
        ((0.0, 0.08, 0.01, 0.08, 0.09), 30),  # closed in between
        ((0.08, 0.09), 10),  # open from the start: nothing earlier is there
        ((0.0, 0.032, 0.04), None),  # significant, but of the size of an ordinary difference
    ],
)
def test_the_rule(gaps: tuple[float, ...], kept: int | None) -> None:
    assert step_before_gap(rows(*gaps)) == kept


def test_a_wide_gap_of_few_scans_is_not_significant() -> None:
    assert is_open(Gap(0.8, 1.0, 0.2, 0.05))
    assert not is_open(Gap(0.8, 1.0, 0.2, 0.08))


def test_watching_needs_snapshots() -> None:
    with pytest.raises(ValueError, match="stop_when_memorising needs ema_snapshots"):
        TrainSettings(stop_when_memorising=True, ema_snapshots=0)
