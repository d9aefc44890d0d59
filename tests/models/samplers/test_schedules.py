"""Noise levels fall from sigma_max to sigma_min to zero, spaced as stated."""

from __future__ import annotations

import pytest
import torch

from models.samplers import SAMPLERS, flow_schedule, sigma_schedule

SCHEDULES = [sigma_schedule, flow_schedule]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_levels_fall_from_sigma_max_to_sigma_min_to_zero(schedule) -> None:
    sigmas = schedule(10, sigma_min=0.02, sigma_max=50.0, rho=7.0)
    assert len(sigmas) == 11
    assert float(sigmas[0]) == pytest.approx(50.0)
    assert float(sigmas[-2]) == pytest.approx(0.02)
    assert float(sigmas[-1]) == 0.0
    assert bool((sigmas.diff() < 0).all())


def test_sigma_levels_are_even_in_their_root() -> None:
    roots = sigma_schedule(10, sigma_min=0.02, sigma_max=50.0, rho=7.0)[:-1] ** (1 / 7.0)
    torch.testing.assert_close(roots.diff(), roots.diff().mean().expand(9))


def test_flow_levels_are_even_in_the_time_of_the_flow() -> None:
    sigmas = flow_schedule(10, sigma_min=0.02, sigma_max=50.0)[:-1]
    times = sigmas / (1.0 + sigmas)
    torch.testing.assert_close(times.diff(), times.diff().mean().expand(9))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_one_step_starts_at_sigma_max(schedule) -> None:
    assert schedule(1, sigma_max=50.0).tolist() == pytest.approx([50.0, 0.0])


def test_only_the_flow_sampler_brings_levels_of_its_own() -> None:
    own = {name for name, entry in SAMPLERS.items() if entry.schedule is not sigma_schedule}
    assert own == {"flow_euler"}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"num_steps": 3, "sigma_min": 90.0}, "sigma_min"),
        ({"num_steps": 3, "rho": 0.0}, "rho"),
    ],
)
def test_wrong_schedules_are_refused_by_name(schedule, arguments: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        schedule(**arguments)
