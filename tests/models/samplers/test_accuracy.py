"""Every sampler, at its recommended steps, reproduces distributions whose score is known exactly."""

from __future__ import annotations

import pytest
import torch

from models.noise import candidate_seed, fresh_noise, initial_noise
from models.samplers import SAMPLERS
from tests.models.samplers.known_scores import (
    Mixture,
    correlated,
    fresh_from,
    normal_quantiles,
    one_dimensional,
    outcome,
)

NAMES = sorted(SAMPLERS)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("mean", "std"), [(0.2, 0.5), (-0.3, 0.25), (0.0, 1.0)])
def test_known_gaussian_within_two_percent(name: str, mean: float, std: float) -> None:
    entry = SAMPLERS[name]
    found, covariance = outcome(entry, one_dimensional(mean, std), entry.schedule(entry.recommended_steps))
    assert float(found) == pytest.approx(mean, abs=0.02 * std)
    assert float(covariance.sqrt()) == pytest.approx(std, rel=0.02)


@pytest.mark.parametrize("name", NAMES)
def test_correlated_gaussian_within_two_percent_in_every_direction(name: str) -> None:
    entry, known = SAMPLERS[name], correlated()
    mean, covariance = outcome(entry, known, entry.schedule(entry.recommended_steps))
    stds = known.covariance.diagonal().sqrt()
    torch.testing.assert_close(covariance.diagonal().sqrt(), stds, rtol=0.02, atol=0.0)
    assert float(((mean - known.mean) / stds).abs().max()) < 0.02
    along = known.basis.T @ covariance @ known.basis
    torch.testing.assert_close(along.diagonal().sqrt(), known.variances.sqrt(), rtol=0.02, atol=0.0)
    # Directions without correlation stay without.
    scale = known.variances.sqrt()
    correlation = along / scale / scale[:, None]
    assert float((correlation - correlation.diagonal().diag()).abs().max()) < 1e-3


@pytest.mark.parametrize("name", NAMES)
def test_two_components_keep_mean_width_place_and_share(name: str) -> None:
    entry, known = SAMPLERS[name], Mixture()
    # With fresh noise the standard error of the mean is 0.45 % of the deviation.
    noise = normal_quantiles(50_000)
    sigmas = entry.schedule(entry.recommended_steps)
    samples = entry.sample(known.denoise, noise, sigmas, fresh_from(0, (50_000, 1))).double()
    assert float(samples.mean()) == pytest.approx(known.mean, abs=0.02 * known.std)
    assert float(samples.std()) == pytest.approx(known.std, rel=0.02)
    upper, lower = samples[samples > 0], samples[samples < 0]
    assert len(upper) / len(samples) == pytest.approx(0.7, abs=0.01)
    assert float(upper.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(lower.mean()) == pytest.approx(-0.6, abs=0.01)
    # Where the flow parts between the components the widths of both are the hardest figures of all.
    assert float(upper.std()) == pytest.approx(known.width, rel=0.04)
    assert float(lower.std()) == pytest.approx(known.width, rel=0.06)


@pytest.mark.parametrize("name", [name for name in NAMES if SAMPLERS[name].stochastic])
def test_noise_streams_of_the_samples_serve_the_sampler(name: str) -> None:
    """The same figures from independent samples, each with its own stream: 64,000 values, chance 0.4 %."""
    entry, steps = SAMPLERS[name], 60
    seeds, shape = [candidate_seed(4, 0, index) for index in range(250)], (256,)
    known = one_dimensional(0.2, 0.5)
    _, covariance = outcome(entry, known, entry.schedule(steps))

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return known.denoise(x.reshape(-1, 1), sigma).reshape(x.shape)

    noise, fresh = initial_noise(seeds, shape), fresh_noise(seeds, shape)
    samples = entry.sample(denoise, noise, entry.schedule(steps), fresh)
    assert float(samples.mean()) == pytest.approx(0.2, abs=0.02 * 0.5)
    assert float(samples.std()) == pytest.approx(float(covariance.sqrt()), rel=0.012)


@pytest.mark.parametrize("name", NAMES)
def test_more_steps_come_closer(name: str) -> None:
    entry, known = SAMPLERS[name], one_dimensional(0.0, 0.5)
    stds = [float(outcome(entry, known, entry.schedule(steps))[1].sqrt()) for steps in (15, 30, 60, 120)]
    errors = [abs(std - 0.5) for std in stds]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize(
    ("name", "gain"),
    [
        ("ddim", 1.8),
        ("flow_euler", 1.8),
        ("ddpm", 1.8),
        ("heun", 3.5),
        ("dpmpp_2m", 3.5),
        ("dpmpp_2m_sde", 3.5),
        ("plms", 3.5),
    ],
)
def test_order_of_accuracy(name: str, gain: float) -> None:
    """Twice the steps halve the error of a first-order sampler and quarter that of a second-order one."""
    entry, known = SAMPLERS[name], one_dimensional(0.0, 0.5)
    # The flow takes the noise along one path, x in proportion to sqrt(std^2 + sigma^2); fresh noise replaces
    # what is left of the initial one, and with it the path.
    exact = 0.5 if entry.stochastic else 80.0 * 0.5 / (0.25 + 80.0**2) ** 0.5

    def error(steps: int) -> float:
        # Ends where the last step to zero adds nothing: the denoiser is the identity there.
        sigmas = entry.schedule(steps, sigma_min=1e-3, rho=7.0)
        return abs(float(outcome(entry, known, sigmas)[1].sqrt()) - exact)

    assert error(60) / error(120) > gain
    if gain < 2.0:
        assert error(60) / error(120) < 2.2
