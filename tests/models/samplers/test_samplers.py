"""What every sampler promises: its denoise calls, its noise, and what it refuses."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.samplers import SAMPLERS, flow_schedule, sample_ddim
from tests.models.samplers.known_scores import Mixture, fresh_from

NAMES = sorted(SAMPLERS)
STOCHASTIC = [name for name in NAMES if SAMPLERS[name].stochastic]


def test_the_stochastic_samplers_are_these() -> None:
    assert STOCHASTIC == ["ddpm", "dpmpp_2m_sde"]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 2, 5])
def test_denoise_calls_are_as_stated(name: str, steps: int) -> None:
    entry, calls = SAMPLERS[name], []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        calls.append(sigma)
        return torch.zeros_like(x)

    entry.sample(denoise, torch.ones(2, 1), entry.schedule(steps), fresh_from(0, (2, 1)))
    assert len(calls) == entry.num_passes(steps)
    assert min(calls) > 0
    assert calls == sorted(calls, reverse=True)


@pytest.mark.parametrize("name", NAMES)
def test_a_single_step_is_one_denoising(name: str) -> None:
    entry = SAMPLERS[name]
    noise, fresh = torch.randn(3, 1), fresh_from(0, (3, 1))
    result = entry.sample(lambda x, s: x * 0 + 0.25, noise, entry.schedule(1), fresh)
    # Heun's rule subtracts and adds back the noise, which rounds at the size of sigma_max.
    torch.testing.assert_close(result, torch.full((3, 1), 0.25), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
def test_fresh_noise_is_taken_once_a_step_and_by_stochastic_samplers_alone(name: str) -> None:
    entry, asked = SAMPLERS[name], []

    def fresh(step: int) -> Tensor:
        asked.append(step)
        return torch.zeros(2, 1)

    entry.sample(lambda x, s: 0.5 * x, torch.ones(2, 1), entry.schedule(6), fresh)
    # The last step ends at zero noise and adds none.
    assert asked == ([0, 1, 2, 3, 4] if entry.stochastic else [])


@pytest.mark.parametrize("name", STOCHASTIC)
def test_a_stochastic_sampler_without_noise_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="fresh"):
        SAMPLERS[name].sample(lambda x, s: x, torch.ones(1, 1), SAMPLERS[name].schedule(4))


@pytest.mark.parametrize("name", NAMES)
def test_noise_levels_that_do_not_fall_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="sigmas"):
        SAMPLERS[name].sample(
            lambda x, s: x, torch.ones(1, 1), torch.tensor([1.0, 2.0, 0.0]), fresh_from(0, (1, 1))
        )


@pytest.mark.parametrize("name", NAMES)
def test_rows_do_not_touch_each_other(name: str) -> None:
    entry, known = SAMPLERS[name], Mixture()
    noise = torch.randn(4, 1, generator=torch.Generator().manual_seed(1))
    added = torch.randn(8, 4, 1, generator=torch.Generator().manual_seed(2))
    sigmas = entry.schedule(8)
    together = entry.sample(known.denoise, noise, sigmas, lambda step: added[step])
    for row in range(4):
        alone = entry.sample(known.denoise, noise[[row]], sigmas, lambda step, row=row: added[step][[row]])
        torch.testing.assert_close(alone, together[[row]])


def test_euler_on_the_rectified_flow_is_ddim_on_its_levels() -> None:
    """Euler's rule on dx_t/dt = n - x0 for x_t = (1 - t) x0 + t n, written out, against the sampler."""
    known, steps = Mixture(), 40
    noise = torch.randn(64, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    sigmas = flow_schedule(steps)
    times = sigmas / (1.0 + sigmas)
    # The flow starts at sigma_max, where (1 - t) times the noise of that level is t times unit noise.
    x = times[0] * noise
    for index in range(steps):
        t, following = float(times[index]), float(times[index + 1])
        clean = known.denoise(x / (1.0 - t), t / (1.0 - t))
        velocity = (x - clean) / t
        x = x + (following - t) * velocity
    assert SAMPLERS["flow_euler"].sample is sample_ddim
    result = SAMPLERS["flow_euler"].sample(known.denoise, noise, SAMPLERS["flow_euler"].schedule(steps))
    torch.testing.assert_close(result.double(), x, rtol=0, atol=2e-5)
