"""Every sampler, at its recommended steps, reproduces distributions whose score is known exactly."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.samplers import SAMPLERS, sigma_schedule

NAMES = sorted(SAMPLERS)


def unit_noise(count: int = 100_000) -> Tensor:
    """Normal noise with mean exactly 0 and deviation exactly 1, so that no allowance for chance is needed."""
    noise = torch.randn(count, 1, generator=torch.Generator().manual_seed(0))
    return (noise - noise.mean()) / noise.std()


def gaussian(mean: float, std: float):
    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        variance = sigma.double().reshape(-1, 1) ** 2
        return ((std**2 * x + variance * mean) / (std**2 + variance)).float()

    return denoise


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("mean", "std"), [(0.2, 0.5), (-0.3, 0.25), (0.0, 1.0)])
def test_known_gaussian_within_two_percent(name: str, mean: float, std: float) -> None:
    entry = SAMPLERS[name]
    samples = entry.sample(gaussian(mean, std), unit_noise(), sigma_schedule(entry.recommended_steps))
    assert float(samples.mean()) == pytest.approx(mean, abs=0.02 * std)
    assert float(samples.std()) == pytest.approx(std, rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_two_components_keep_place_width_and_share(name: str) -> None:
    means, weights, std = torch.tensor([-0.6, 0.5]), torch.tensor([0.3, 0.7]), 0.1

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        total = std**2 + sigma.double().reshape(-1, 1) ** 2
        weight = torch.softmax(weights.log() - (x - means) ** 2 / (2 * total), dim=1)
        posterior = (std**2 * x + (total - std**2) * means) / total
        return (weight * posterior).sum(dim=1, keepdim=True).float()

    entry = SAMPLERS[name]
    samples = entry.sample(denoise, unit_noise(40_000), sigma_schedule(entry.recommended_steps))
    upper = samples[samples > 0]
    assert len(upper) / len(samples) == pytest.approx(0.7, abs=0.02)
    assert float(upper.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(samples[samples < 0].mean()) == pytest.approx(-0.6, abs=0.01)
    assert float(upper.std()) == pytest.approx(std, rel=0.04)


@pytest.mark.parametrize("name", NAMES)
def test_more_steps_come_closer(name: str) -> None:
    sample = SAMPLERS[name].sample
    errors = [
        abs(float(sample(gaussian(0.0, 0.5), unit_noise(), sigma_schedule(steps)).std()) - 0.5)
        for steps in (15, 30, 60, 120)
    ]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize(("name", "gain"), [("ddim", 1.8), ("heun", 3.5), ("dpmpp_2m", 3.5)])
def test_order_of_accuracy(name: str, gain: float) -> None:
    """Twice the steps halve the error of a first-order sampler and quarter that of a second-order one."""
    sample, noise = SAMPLERS[name].sample, torch.ones(1, 1)
    # One path of the probability flow: x grows with sqrt(std^2 + sigma^2).
    exact = 80.0 * 0.5 / (0.25 + 80.0**2) ** 0.5

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        return x * 0.25 / (0.25 + sigma.reshape(-1, 1) ** 2)

    def error(steps: int) -> float:
        # Ends where the last step to zero adds nothing: the denoiser is the identity there.
        sigmas = sigma_schedule(steps, sigma_min=1e-3, rho=7.0)
        return abs(float(sample(denoise, noise, sigmas)) - exact)

    assert error(60) / error(120) > gain


@pytest.mark.parametrize("name", NAMES)
def test_denoise_calls_are_as_stated(name: str) -> None:
    calls = []

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        assert sigma.shape == (2,)
        calls.append(float(sigma[0]))
        return torch.zeros_like(x)

    SAMPLERS[name].sample(denoise, torch.ones(2, 1), sigma_schedule(5))
    assert len(calls) == SAMPLERS[name].num_passes(5)
    assert min(calls) > 0


@pytest.mark.parametrize("name", NAMES)
def test_a_single_step_is_one_denoising(name: str) -> None:
    result = SAMPLERS[name].sample(lambda x, s: x * 0 + 0.25, torch.randn(3, 1), sigma_schedule(1))
    # Heun's rule subtracts and adds back the noise, which rounds at the size of sigma_max.
    torch.testing.assert_close(result, torch.full((3, 1), 0.25), rtol=0, atol=1e-4)


def test_schedule_falls_from_sigma_max_to_sigma_min_to_zero() -> None:
    sigmas = sigma_schedule(10, sigma_min=0.02, sigma_max=50.0, rho=7.0)
    assert len(sigmas) == 11
    assert float(sigmas[0]) == pytest.approx(50.0)
    assert float(sigmas[-2]) == pytest.approx(0.02)
    assert float(sigmas[-1]) == 0.0
    assert bool((sigmas.diff() < 0).all())
    roots = sigmas[:-1] ** (1 / 7.0)
    torch.testing.assert_close(roots.diff(), roots.diff().mean().expand(9))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"num_steps": 0}, "num_steps"),
        ({"num_steps": 3, "sigma_min": 90.0}, "sigma_min"),
        ({"num_steps": 3, "rho": 0.0}, "rho"),
    ],
)
def test_wrong_schedules_are_refused_by_name(arguments: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        sigma_schedule(**arguments)


def test_noise_levels_that_do_not_fall_are_refused() -> None:
    with pytest.raises(ValueError, match="sigmas"):
        SAMPLERS["heun"].sample(lambda x, s: x, torch.ones(1, 1), torch.tensor([1.0, 2.0, 0.0]))
