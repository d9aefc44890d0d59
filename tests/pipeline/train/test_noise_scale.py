"""Large images are trained, watched and drawn with the noise that hides what smaller ones had hidden."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.diffusion.denoiser import Denoiser
from models.diffusion.editing import repaint_passes
from models.diffusion.spectral import NOISE_SPREAD
from models.network.spec import NetworkSpec
from models.optim.precision import Precision
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.conditions import CohortConditions
from pipeline.distributed.process_group import Ranks
from pipeline.edit.draw import edit_batch, num_denoise_calls, schedule_of
from pipeline.edit.settings import EditSettings
from pipeline.sample.draw import Candidate, draw_candidates
from pipeline.sample.settings import SampleSettings
from pipeline.train.latent.sources import PixelSource
from pipeline.train.machine_plan import MachinePlan
from pipeline.train.monitoring.memorisation_gap import PairedScans
from pipeline.train.monitoring.timing import NoTiming
from pipeline.train.settings import TrainSettings
from pipeline.train.step import TrainingStep
from tests.cohorts import write_cohort

SIZES = (48, 96)
"""Below the side of 64 pixels, and one and a half times as long."""


class Recorded(Denoiser):
    """Denoiser that remembers the noise levels it was asked about."""

    def __init__(self, size: int, parametrisation: str = "edm") -> None:
        super().__init__(
            NetworkSpec(
                (size, size),
                3,
                channels=(8,),
                attention=(False,),
                num_head_channels=8,
                num_norm_groups=8,
                patch_size=8,
            ),
            parametrisation=parametrisation,
        )
        self.asked: list[float] = []

    def forward(
        self, x: torch.Tensor, sigma: torch.Tensor, codes: torch.Tensor, augment: torch.Tensor | None = None
    ) -> torch.Tensor:
        self.asked += sigma.flatten().tolist()
        return super().forward(x, sigma, codes, augment)


@pytest.fixture(scope="module")
def cohorts(tmp_path_factory: pytest.TempPathFactory) -> list[Cohort]:
    folder = tmp_path_factory.mktemp("sizes")
    return [Cohort(write_cohort(folder / str(size), num_scans=200, image_size=size).path) for size in SIZES]


def test_the_levels_of_a_training_step(cohorts: list[Cohort]) -> None:
    levels = []
    for size, cohort in zip(SIZES, cohorts, strict=True):
        settings = TrainSettings(batch_size=4)
        plan = MachinePlan(torch.device("cpu"), 1, Precision("fp32", channels_last=False))
        step = TrainingStep(
            Recorded(size), settings, plan, Ranks(), seed=1, timing=NoTiming(), source=PixelSource(cohort)
        )
        step.run(0, torch.zeros(4, 1, size, size), torch.zeros(4, 1, dtype=torch.int64), 1e-4)
        levels.append(step.sigmas[0])
    torch.testing.assert_close(levels[1], 1.5 * levels[0])


def test_the_levels_of_the_gap_between_train_and_val(cohorts: list[Cohort]) -> None:
    levels = []
    for size, cohort in zip(SIZES, cohorts, strict=True):
        objective = TrainSettings().objective
        scans = PairedScans(cohort, PixelSource(cohort), CohortConditions(cohort, ()), objective, 1)
        denoiser = Recorded(size).eval()
        scans.measure(denoiser)
        levels.append(sorted(set(denoiser.asked)))
    assert levels[1] == pytest.approx([1.5 * level for level in levels[0]], rel=1e-5)


def test_the_levels_of_a_target_by_frequency_spread_more_widely(cohorts: list[Cohort]) -> None:
    cohort, objective = cohorts[0], TrainSettings().objective
    scans = PairedScans(cohort, PixelSource(cohort), CohortConditions(cohort, ()), objective, 1)
    plan = MachinePlan(torch.device("cpu"), 1, Precision("fp32", channels_last=False))
    gap, steps = [], []
    for parametrisation in ("edm", "spectral"):
        denoiser = Recorded(SIZES[0], parametrisation).eval()
        scans.measure(denoiser)
        gap.append(np.log(sorted(set(denoiser.asked))) - objective.sigma_mean)
        step = TrainingStep(
            Recorded(SIZES[0], parametrisation),
            TrainSettings(batch_size=4),
            plan,
            Ranks(),
            seed=1,
            timing=NoTiming(),
            source=PixelSource(cohort),
        )
        step.run(0, torch.zeros(4, 1, SIZES[0], SIZES[0]), torch.zeros(4, 1, dtype=torch.int64), 1e-4)
        steps.append(step.sigmas[0].log().numpy() - objective.sigma_mean)
    for edm, spectral in (gap, steps):
        np.testing.assert_allclose(spectral, NOISE_SPREAD * edm, rtol=1e-4)
    assert NOISE_SPREAD > 1


def test_the_first_level_of_an_image_that_is_drawn() -> None:
    for size, first in zip(SIZES, (80.0, 120.0), strict=True):
        denoiser = Recorded(size).eval()
        settings = SampleSettings(num_steps=3, batch_size=1, shard_size=1)
        draw_candidates(denoiser, [Candidate(0, 0, 1)], settings, bit_depth=8)
        assert denoiser.asked[0] == pytest.approx(first)
        assert denoiser.asked[-1] == pytest.approx(0.01)


def test_the_first_level_of_an_edit() -> None:
    settings = EditSettings(strength=1.0)
    small, large = schedule_of(settings, 1.0), schedule_of(settings, 1.5)
    assert float(large[0]) == pytest.approx(1.5 * float(small[0]))
    assert len(large) == len(small)


def test_the_levels_that_a_repaint_repeats() -> None:
    for size, (low, high) in zip(SIZES, ((0.03, 0.5), (0.045, 0.75)), strict=True):
        denoiser = Recorded(size).eval()
        settings = EditSettings(
            sampler="repaint", mask="mask.png", num_steps=40, repeats=2, to_class="ring", batch_size=1
        )
        mask = np.zeros((size, size), np.float32)
        mask[:8] = 1.0
        edit_batch(denoiser, np.zeros((1, 1, size, size), np.uint8), [0], settings, mask=mask, label=0)
        schedule = [float(level) for level in schedule_of(settings, denoiser.spec.noise_scale)[:-1]]
        asked = np.asarray(denoiser.asked)
        again = [level for level in schedule if np.isclose(asked, level, rtol=1e-6).sum() > 1]
        assert again == [level for level in schedule[:-1] if low <= level <= high]
        assert len(denoiser.asked) == num_denoise_calls(settings, denoiser.spec.noise_scale)


def test_a_dry_run_counts_the_repeats_of_the_levels_that_a_large_image_has() -> None:
    settings = EditSettings(sampler="repaint", mask="mask.png", num_steps=26, to_class="ring")
    small, large = (num_denoise_calls(settings, scale) for scale in (1.0, 8.0))
    assert small == 75
    assert large == repaint_passes(schedule_of(settings, 8.0), settings.repeats, 8.0) < small
