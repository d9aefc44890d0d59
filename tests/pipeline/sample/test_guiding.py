"""Guided candidates: what guides them is taken from the checkpoint, and each still stands on its own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.artifacts.candidates import Candidates
from pipeline.artifacts.checkpoint import load_denoiser, read_checkpoint_info
from pipeline.errors import DataError, UsageError
from pipeline.records import CandidatesRef, CheckpointRef, CohortRef
from pipeline.sample import SampleSettings, run_sample
from pipeline.sample.draw import Candidate, draw_candidates
from pipeline.sample.guiding import make_guidance, weaker_step
from pipeline.stage import load_reference
from pipeline.train import TrainSettings, run_train
from tests import tiny

FIELDS = {"per_class": 3, "overdraw": 1.0, "num_steps": 4, "batch_size": 4, "shard_size": 8}
TRAIN: Mapping[str, Any] = {
    **tiny.TRAIN,
    "num_steps": 40,
    "learning_rate": 4e-3,
}


@pytest.fixture(scope="module")
def checkpoint(tiny_cohort_16: CohortRef, tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    settings = TrainSettings(**TRAIN, ema_snapshots=8)
    return run_train(tiny_cohort_16, tmp_path_factory.mktemp("guiding") / "checkpoint", settings, seed=2)


@pytest.fixture(scope="module")
def bare(tiny_cohort_16: CohortRef, tmp_path_factory: pytest.TempPathFactory) -> CheckpointRef:
    settings = TrainSettings(**{**TRAIN, "num_steps": 3}, ema_snapshots=0)
    return run_train(tiny_cohort_16, tmp_path_factory.mktemp("guiding") / "bare", settings, seed=2)


@pytest.fixture(scope="module")
def plain(checkpoint: CheckpointRef, tmp_path_factory: pytest.TempPathFactory) -> CandidatesRef:
    return run_sample(
        checkpoint, tmp_path_factory.mktemp("guiding") / "plain", SampleSettings(**FIELDS), seed=9
    )


GUIDED = {
    "interval": {"guidance_scale": 3.0, "guidance_low": 0.3, "guidance_high": 5.0},
    "away": {"guidance_scale": 2.0, "guidance_away_from": "disc"},
    "autoguide": {"guidance_scale": 2.0, "autoguide": 0.25},
    "average": {"ema_length": 0.07},
}


@pytest.mark.parametrize("name", GUIDED)
def test_guided_candidates_differ_from_plain_ones_and_equal_themselves_alone(
    checkpoint: CheckpointRef, plain: CandidatesRef, tmp_path: Path, name: str
) -> None:
    settings = SampleSettings(**FIELDS, **GUIDED[name])
    made = Candidates(run_sample(checkpoint, tmp_path / "c", settings, seed=9).path)
    pixels = made.take(list(range(9)))
    other = Candidates(plain.path).take(list(range(9)))
    # A class guided away from itself is the plain model.
    changed = [not np.array_equal(one, two) for one, two in zip(pixels, other, strict=True)]
    assert changed == [name != "away"] * 3 + [True] * 6

    denoiser, info = load_denoiser(checkpoint.path, ema_length=settings.ema_length)
    guidance = make_guidance(checkpoint.path, info, denoiser, settings)
    for row in (0, 4, 8):
        record = made.table.iloc[row]
        alone = Candidate(int(record["label"]), int(record["index"]), int(record["seed"]))
        drawn = draw_candidates(denoiser, [alone], settings, bit_depth=8, guidance=guidance)
        assert np.array_equal(drawn[0], pixels[row])


def test_guidance_outside_every_noise_level_changes_nothing(
    checkpoint: CheckpointRef, plain: CandidatesRef, tmp_path: Path
) -> None:
    settings = SampleSettings(**FIELDS, guidance_scale=4.0, guidance_low=9000.0)
    made = Candidates(run_sample(checkpoint, tmp_path / "c", settings, seed=9).path)
    assert np.array_equal(made.take(list(range(9))), Candidates(plain.path).take(list(range(9))))


def test_the_weaker_model_is_the_shortest_average_of_the_snapshot_asked_for(
    checkpoint: CheckpointRef,
) -> None:
    denoiser, info = load_denoiser(checkpoint.path)
    assert info.snapshots == (5, 10, 15, 20, 25, 30, 35, 40)
    assert [weaker_step(info, share) for share in (0.01, 0.25, 0.6, 0.99)] == [5, 10, 25, 35]
    settings = SampleSettings(guidance_scale=2.0, autoguide=0.25)
    guide = make_guidance(checkpoint.path, info, denoiser, settings).guide
    assert guide is not None
    expected, _ = load_denoiser(checkpoint.path, ema_length=0.05, step=10)
    for own, other in zip(guide.parameters(), expected.parameters(), strict=True):
        assert torch.equal(own, other)


def test_the_stored_length_is_the_model_and_others_lie_between(checkpoint: CheckpointRef) -> None:
    def weights(length: float | None) -> torch.Tensor:
        denoiser, _ = load_denoiser(checkpoint.path, ema_length=length)
        return torch.cat([parameter.flatten() for parameter in denoiser.parameters()])

    own, short, middle = weights(None), weights(0.05), weights(0.07)
    assert torch.equal(weights(0.10), own)
    assert 0 < float((middle - own).norm()) < float((short - own).norm())
    assert read_checkpoint_info(checkpoint.path).ema_length == 0.10


@pytest.mark.parametrize(
    ("fields", "error", "message"),
    [
        (
            {"guidance_scale": 2.0, "guidance_away_from": "lung"},
            UsageError,
            r"guidance_away_from.*no such class",
        ),
        ({"ema_length": 0.006}, DataError, r"no average of length 0\.006"),
    ],
)
def test_what_the_checkpoint_cannot_give_is_named(
    checkpoint: CheckpointRef, tmp_path: Path, fields: dict[str, object], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        run_sample(checkpoint, tmp_path / "c", SampleSettings(**FIELDS, **fields), seed=9)


@pytest.mark.parametrize("fields", [{"guidance_scale": 2.0, "autoguide": 0.3}, {"ema_length": 0.05}])
def test_a_checkpoint_without_snapshots_says_so(
    bare: CheckpointRef, tmp_path: Path, fields: dict[str, object]
) -> None:
    with pytest.raises(DataError, match=r"no snapshots.*train\.ema_snapshots") as caught:
        run_sample(bare, tmp_path / "c", SampleSettings(**FIELDS, **fields), seed=9)
    assert caught.value.exit_code == 3


def test_a_damaged_snapshot_is_refused(checkpoint: CheckpointRef, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkpoint.path, copy)
    (copy / "snapshots" / "step-000000010.safetensors").write_bytes(b"torn")
    with pytest.raises(DataError, match="step-000000010"):
        run_sample(load_reference(CheckpointRef, copy), tmp_path / "c", SampleSettings(**FIELDS), seed=9)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"guidance_low": 2.0, "guidance_high": 1.0}, "guidance_low=2.0 must lie below"),
        ({"guidance_scale": 2.0, "guidance_away_from": "disc", "autoguide": 0.5}, "exclude each other"),
        ({"autoguide": 0.5}, "autoguide has no effect with guidance_scale=1"),
        ({"guidance_away_from": "disc"}, "guidance_away_from has no effect"),
        ({"ema_length": 0.5}, "ema_length"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SampleSettings(**fields)
