"""Augmented training tells its network what was done, survives a kill, and is sampled from without it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from models.diffusion.augment import NUM_FEATURES
from pipeline.artifacts.candidates import Candidates
from pipeline.artifacts.checkpoint import load_denoiser
from pipeline.records import CohortRef
from pipeline.sample import SampleSettings, run_sample
from pipeline.train import TrainSettings, run_train
from tests import tiny

FIELDS: Mapping[str, Any] = {
    **tiny.TRAIN,
    "num_steps": 6,
    "attention": (False, False),
    "ema_snapshots": 0,
    "checkpoint_every_steps": 4,
    "augment": 0.3,
}


def test_it_is_resumed_told_to_the_network_and_left_out_of_samples(
    tiny_cohort_16: CohortRef, tmp_path: Path
) -> None:
    settings = TrainSettings(**FIELDS)
    made = run_train(tiny_cohort_16, tmp_path / "c", settings, seed=3)
    for name in (
        "reference.json",
        "model.safetensors",
        "checkpoint.json",
        "state/step-000000006.safetensors",
    ):
        (made.path / name).unlink()
    assert run_train(tiny_cohort_16, made.path, settings, seed=3).digest == made.digest

    denoiser, _ = load_denoiser(made.path)
    assert denoiser.spec.augment_features == NUM_FEATURES
    weights = denoiser.state_dict()["network.class_embedding.features.weight"][:, 1:]
    assert weights.abs().sum(dim=0).min() > 0
    x, sigma, codes = torch.randn(2, 1, 16, 16), torch.ones(2), torch.tensor([0, 1])
    plain = denoiser(x, sigma, codes)
    assert torch.equal(denoiser(x, sigma, codes, torch.zeros(2, NUM_FEATURES)), plain)

    sample = SampleSettings(per_class=1, overdraw=1.0, num_steps=3, batch_size=4, shard_size=4)
    drawn = Candidates(run_sample(made, tmp_path / "s", sample, seed=1).path)
    assert len(np.unique(drawn.take([0, 1, 2]).reshape(3, -1), axis=0)) == 3


def test_without_augmentation_the_network_has_no_features() -> None:
    plain = TrainSettings(**{**FIELDS, "augment": 0.0})
    assert plain.network_fields((16, 16))["augment_features"] == 0
