"""Every sampler can be chosen, draws the same bytes in any company, and is refused where it is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from models.samplers import SAMPLERS
from pipeline.artifacts.candidates import Candidates
from pipeline.artifacts.checkpoint import load_denoiser
from pipeline.records import CheckpointRef, CohortRef
from pipeline.sample import SampleSettings, run_sample
from pipeline.sample.draw import draw_candidates, list_candidates
from pipeline.train import TrainSettings, run_train
from tests import tiny
from tests.models.samplers.known_scores import one_dimensional, outcome

DDPM_MIN_STEPS = SAMPLERS["ddpm"].least_steps
NAMES = get_args(SampleSettings.model_fields["sampler"].annotation)


def settings_for(sampler: str) -> SampleSettings:
    """Few steps, for ancestral sampling too, past the check of the settings: only the bytes matter."""
    few = {"sampler": sampler, "num_steps": 6}
    return SampleSettings(batch_size=8, guidance_scale=1.5).model_copy(update=few)


@pytest.fixture(scope="module")
def checkpoints(
    tiny_cohort_16: CohortRef, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, CheckpointRef]:
    def train(precision: str) -> CheckpointRef:
        settings = TrainSettings(**{**tiny.TRAIN, "precision": precision, "num_steps": 5})
        return run_train(tiny_cohort_16, tmp_path_factory.mktemp("sample") / precision, settings, seed=2)

    return {precision: train(precision) for precision in ("fp32", "bf16")}


def test_the_settings_name_every_sampler_there_is() -> None:
    assert sorted(NAMES) == sorted(SAMPLERS)


@pytest.mark.parametrize("sampler", NAMES)
def test_every_sampler_can_be_chosen(
    checkpoints: dict[str, CheckpointRef], tmp_path: Path, sampler: str
) -> None:
    steps = DDPM_MIN_STEPS if sampler == "ddpm" else 5
    settings = SampleSettings(
        per_class=1, overdraw=1, num_steps=steps, sampler=sampler, batch_size=1, shard_size=1
    )
    drawn = run_sample(checkpoints["fp32"], tmp_path / "c", settings, seed=9, classes=["line"])
    table = Candidates(drawn.path).table
    assert set(table["sampler"]) == {sampler}
    assert set(table["num_steps"]) == {steps}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("sampler", NAMES)
def test_a_candidate_has_the_same_bytes_in_any_company(
    checkpoints: dict[str, CheckpointRef], sampler: str, precision: str
) -> None:
    denoiser, _ = load_denoiser(checkpoints[precision].path)
    settings, candidates = settings_for(sampler), list_candidates([0, 1, 2], 3, 9)
    first = draw_candidates(denoiser, candidates[:8], settings, bit_depth=16)
    assert len(np.unique(first.reshape(8, -1), axis=0)) == 8
    backwards = draw_candidates(denoiser, candidates[8:2:-1], settings, bit_depth=16)
    assert np.array_equal(backwards[1:], first[7:2:-1])
    for place in (0, 4):
        alone = draw_candidates(denoiser, [candidates[place]], settings, bit_depth=16)
        assert np.array_equal(alone, first[[place]])


def test_no_two_samplers_draw_the_same_image(checkpoints: dict[str, CheckpointRef]) -> None:
    denoiser, _ = load_denoiser(checkpoints["fp32"].path)
    one = list_candidates([0], 1, 1)
    images = {
        draw_candidates(
            denoiser, one, settings_for(sampler).model_copy(update={"batch_size": 1}), bit_depth=16
        ).tobytes()
        for sampler in NAMES
    }
    assert len(images) == len(NAMES)


def test_ancestral_sampling_with_few_steps_is_refused() -> None:
    with pytest.raises(ValueError, match="num_steps=50 must be at least 400 with sampler=ddpm"):
        SampleSettings(sampler="ddpm", num_steps=50)
    assert SampleSettings(sampler="ddpm", num_steps=DDPM_MIN_STEPS).num_steps == DDPM_MIN_STEPS
    assert SAMPLERS["ddpm"].recommended_steps >= DDPM_MIN_STEPS


def test_ancestral_sampling_narrows_by_over_two_percent_where_it_is_refused() -> None:
    entry, known = SAMPLERS["ddpm"], one_dimensional(0.0, 0.02**0.5)

    def narrowing(steps: int) -> float:
        covariance = outcome(entry, known, entry.schedule(steps))[1]
        return 1.0 - float((covariance / known.covariance).sqrt())

    assert narrowing(DDPM_MIN_STEPS) < 0.02 < narrowing(DDPM_MIN_STEPS // 2)
