"""A checkpoint that knows discs, bars and rings, and candidates drawn from it."""

from __future__ import annotations

import pytest

from pipeline.edit import EditSettings, run_edit
from pipeline.records import CandidatesRef, CheckpointRef, CohortRef
from pipeline.sample import SampleSettings, run_sample
from pipeline.train import TrainSettings, run_train
from tests import tiny


@pytest.fixture(scope="session")
def checkpoint(tiny_cohort_16: CohortRef, tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    settings = TrainSettings(
        **{**tiny.TRAIN, "batch_size": 16},
        num_steps=300,
        learning_rate=4e-3,
    )
    return run_train(tiny_cohort_16, tmp_path_factory.mktemp("edit") / "checkpoint", settings, seed=2)


@pytest.fixture(scope="session")
def drawn(checkpoint: CheckpointRef, tmp_path_factory: pytest.TempPathFactory) -> CandidatesRef:
    settings = SampleSettings(per_class=8, overdraw=1.0, num_steps=12, batch_size=8, shard_size=8)
    return run_sample(checkpoint, tmp_path_factory.mktemp("edit") / "candidates", settings, seed=9)


BOX = (0.1, 0.1, 0.9, 0.9)
FIELDS = {
    "to_class": "ring",
    "from_class": "line",
    "per_class": 20,
    "overdraw": 1.25,
    "mask": BOX,
    "guidance_scale": 2.0,
    "num_steps": 16,
    "repeats": 3,
    "batch_size": 8,
    "shard_size": 9,
}
"""25 bars of the train split, each with its middle remade as a ring, in shards of 8."""


@pytest.fixture(scope="session")
def edited(
    checkpoint: CheckpointRef, tiny_cohort_16: CohortRef, tmp_path_factory: pytest.TempPathFactory
) -> CandidatesRef:
    out = tmp_path_factory.mktemp("edit") / "edits"
    return run_edit(checkpoint, tiny_cohort_16.path, out, EditSettings(**FIELDS), seed=5)


@pytest.fixture(scope="session")
def edited_candidates(
    checkpoint: CheckpointRef, drawn: CandidatesRef, tmp_path_factory: pytest.TempPathFactory
) -> CandidatesRef:
    out = tmp_path_factory.mktemp("edit") / "edits"
    return run_edit(checkpoint, drawn.path, out, EditSettings(**{**FIELDS, "per_class": 6}), seed=5)
