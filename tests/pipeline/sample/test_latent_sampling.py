"""Candidates drawn in latent space: decoded to scans, each the same alone and in any batch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.artifacts.candidates import Candidates
from pipeline.artifacts.checkpoint import load_autoencoder, load_denoiser
from pipeline.artifacts.cohort import Cohort
from pipeline.cost.estimate import workload_of
from pipeline.errors import TamperedError
from pipeline.records import CandidatesRef, CheckpointRef, CohortRef
from pipeline.sample import SampleSettings, run_sample
from pipeline.sample.draw import Candidate, draw_candidates
from pipeline.sample.plan import plan_sample
from pipeline.train import TrainSettings, run_train
from pipeline.train.plan import estimate_train, plan_train
from tests import tiny
from tests.cohorts import write_cohort

LATENT = {"enabled": True, "channels": (16,), "patch_size": 8, "num_norm_groups": 8, "num_steps": 60}
TRAIN: Mapping[str, Any] = {
    **tiny.TRAIN,
    "num_steps": 30,
    "batch_size": 16,
    "channels": (16, 16),
    "attention": (False, False),
    "precision": "bf16",
    "learning_rate": 4e-3,
    "latent": LATENT,
}
SAMPLE = SampleSettings(per_class=10, overdraw=1.0, num_steps=4, batch_size=12, shard_size=24)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> CohortRef:
    return write_cohort(tmp_path_factory.mktemp("latent") / "cohort", image_size=64, num_scans=120)


@pytest.fixture(scope="module")
def checkpoint(cohort: CohortRef, tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    return run_train(cohort, tmp_path_factory.mktemp("latent") / "checkpoint", TrainSettings(**TRAIN), seed=2)


@pytest.fixture(scope="module")
def drawn(checkpoint: CheckpointRef, tmp_path_factory: pytest.TempPathFactory) -> CandidatesRef:
    return run_sample(checkpoint, tmp_path_factory.mktemp("latent") / "candidates", SAMPLE, seed=9)


def test_candidates_are_scans_of_the_cohorts_size_and_range(cohort: CohortRef, drawn: CandidatesRef) -> None:
    candidates = Candidates(drawn.path)
    pixels = candidates.take(list(range(len(candidates))))
    assert pixels.shape == (30, 1, 64, 64)
    assert pixels.dtype == np.uint8
    assert len(np.unique(pixels.reshape(30, -1), axis=0)) == 30
    opened = Cohort(cohort.path)
    real = opened.take(opened.rows("train"))
    # Decoded, not raw latents: brightness and contrast are near those of the scans.
    assert abs(float(pixels.mean()) - float(real.mean())) < 40
    assert 0.3 < float(pixels.std()) / float(real.std()) < 2.0


def test_a_candidate_made_alone_equals_the_one_made_in_any_batch(
    checkpoint: CheckpointRef, drawn: CandidatesRef
) -> None:
    whole = Candidates(drawn.path)
    denoiser, _ = load_denoiser(checkpoint.path)
    autoencoder = load_autoencoder(checkpoint.path)
    for row in (0, 11, 12, 29):
        record = whole.table.iloc[row]
        alone = Candidate(int(record["label"]), int(record["index"]), int(record["seed"]))
        pixels = draw_candidates(denoiser, [alone], SAMPLE, bit_depth=8, autoencoder=autoencoder)
        assert np.array_equal(pixels, whole.take([row]))


def test_shards_and_resumed_draws_hold_the_same_bytes(
    checkpoint: CheckpointRef, drawn: CandidatesRef, tmp_path: Path
) -> None:
    out = tmp_path / "candidates"
    shutil.copytree(drawn.path, out)
    (out / "reference.json").unlink()
    (out / "pixels-00001.npy").unlink()
    assert run_sample(checkpoint, out, SAMPLE, seed=9).digest == drawn.digest
    other = SampleSettings(**{**SAMPLE.model_dump(), "shard_size": 12})
    again = Candidates(run_sample(checkpoint, tmp_path / "other", other, seed=9).path)
    everything = list(range(30))
    assert np.array_equal(again.take(everything), Candidates(drawn.path).take(everything))


def test_nothing_is_drawn_from_a_checkpoint_whose_autoencoder_was_changed(
    checkpoint: CheckpointRef, tmp_path: Path
) -> None:
    copy = tmp_path / "checkpoint"
    shutil.copytree(checkpoint.path, copy)
    (copy / "autoencoder.safetensors").unlink()
    with pytest.raises(TamperedError, match=r"autoencoder\.safetensors"):
        run_sample(checkpoint.model_copy(update={"path": copy}), tmp_path / "c", SAMPLE, seed=0)
    assert not list((tmp_path / "c").glob("pixels-*"))


def test_estimates_count_the_autoencoder(cohort: CohortRef, checkpoint: CheckpointRef) -> None:
    work, latent = workload_of(cohort), TrainSettings(**TRAIN)
    pixels = TrainSettings(**{**TRAIN, "latent": {}})
    moments = sum(path.stat().st_size for path in (checkpoint.path / "latents").glob("*.npy"))
    weights = (checkpoint.path / "autoencoder.safetensors").stat().st_size
    added = estimate_train(latent, work).disk_bytes - estimate_train(pixels, work).disk_bytes
    assert added == pytest.approx(moments + 9 * weights, rel=0.2)
    longer = TrainSettings(**{**TRAIN, "latent": {**LATENT, "num_steps": 10**6}})
    assert estimate_train(longer, work).seconds > 100 * estimate_train(latent, work).seconds
    foreseen = plan_train(cohort, latent, seed=2).foresee()
    known, ahead = (plan_sample(given, SAMPLE, seed=9).foresee() for given in (checkpoint, foreseen))
    assert known.network is not None and known.network.autoencoder is not None
    assert known.network == ahead.network
    assert plan_sample(checkpoint, SAMPLE, seed=9).estimate().seconds > 0
