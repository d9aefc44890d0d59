"""A checkpoint that knows discs, bars and rings, and candidates drawn from it."""

from __future__ import annotations

import pytest

from pipeline.records import CandidatesRef, CheckpointRef, CohortRef
from pipeline.sample import SampleSettings, run_sample
from pipeline.train import TrainSettings, run_train


@pytest.fixture(scope="session")
def checkpoint(tiny_cohort_16: CohortRef, tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    settings = TrainSettings(
        num_steps=400,
        batch_size=32,
        precision="fp32",
        num_threads=1,
        learning_rate=4e-3,
        grid_every_steps=0,
        channels=(16, 32),
        attention=(False, True),
        num_head_channels=8,
        num_norm_groups=8,
    )
    return run_train(tiny_cohort_16, tmp_path_factory.mktemp("edit") / "checkpoint", settings, seed=2)


@pytest.fixture(scope="session")
def drawn(checkpoint: CheckpointRef, tmp_path_factory: pytest.TempPathFactory) -> CandidatesRef:
    settings = SampleSettings(per_class=8, overdraw=1.0, num_steps=12, batch_size=8, shard_size=8)
    return run_sample(checkpoint, tmp_path_factory.mktemp("edit") / "candidates", settings, seed=9)
