"""The samplers and the schedulers of diffusers take the same path from the same noise.

Compared is every point at which the denoise function is called, on the same noise levels, with the same
function and the same noise, and the result. Points are compared in the variance-preserving coordinate
x / sqrt(1 + sigma^2), whose size is about one at every level, within the rounding of fp32.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.samplers import SAMPLERS, flow_schedule, sigma_schedule
from tests.models.samplers.known_scores import Mixture, fresh_from

SHAPE = (32, 2, 3, 3)
NOISE = torch.randn(SHAPE, generator=torch.Generator().manual_seed(0))
ROUNDING = 1e-5
STEPS = 24
# Near the data: far above it, samplers of any order take the same straight path.
FIRST_LEVEL = 3.0


@pytest.fixture(scope="module")
def schedulers():
    reason = "diffusers is missing; pip install 'diffusers==0.42.1' -c constraints.txt"
    return pytest.importorskip("diffusers.schedulers", reason=reason)


class Path:
    """A denoise function that remembers where it was called."""

    def __init__(self) -> None:
        self.points: list[Tensor] = []

    def __call__(self, x: Tensor, sigma: float) -> Tensor:
        self.points.append(x / (1.0 + sigma**2) ** 0.5)
        # Far from linear, but not so narrow that the modes would pull apart what rounding moved.
        return Mixture(width=0.25).denoise(x, sigma)

    def at(self, x: Tensor, sigma: Tensor | float) -> Tensor:
        return self(x.float(), float(sigma))


def levels(steps: int) -> Tensor:
    return sigma_schedule(steps, sigma_max=FIRST_LEVEL)


def ours(name: str, sigmas: Tensor, fresh=None) -> tuple[Path, Tensor]:
    path = Path()
    return path, SAMPLERS[name].sample(path, NOISE, sigmas, fresh)


def assert_same(mine: Path, theirs: Path) -> None:
    assert len(mine.points) == len(theirs.points)
    for one, other in zip(mine.points, theirs.points, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=ROUNDING)


def with_levels(scheduler, sigmas: Tensor):
    """Give a variance-preserving scheduler of `len(sigmas) - 1` training steps our noise levels, exactly.

    Betas in fp32 would round the low levels by far more than the samplers do.
    """
    scheduler.alphas_cumprod = 1.0 / (1.0 + sigmas[:-1].flip(0) ** 2)
    scheduler.set_timesteps(len(sigmas) - 1)
    return scheduler


def preserved(x: Tensor, sigma: Tensor) -> Tensor:
    return x / (1.0 + sigma**2) ** 0.5


def test_euler_is_ddim(schedulers) -> None:
    sigmas = levels(STEPS)
    mine, result = ours("ddim", sigmas)
    scheduler = schedulers.EulerDiscreteScheduler(prediction_type="sample")
    scheduler.set_timesteps(sigmas=sigmas.tolist())
    scheduler.is_scale_input_called = True  # Mixture takes x as it is
    scheduler.set_begin_index(0)
    theirs, x = Path(), NOISE * scheduler.sigmas[0]
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        x = scheduler.step(theirs.at(x, sigma), t, x).prev_sample
    assert_same(mine, theirs)
    torch.testing.assert_close(result, x, rtol=0, atol=ROUNDING)


def test_ddim(schedulers) -> None:
    sigmas = levels(STEPS)
    mine, result = ours("ddim", sigmas)
    scheduler = with_levels(
        schedulers.DDIMScheduler(STEPS, prediction_type="sample", clip_sample=False), sigmas
    )
    theirs, x = Path(), preserved(NOISE * float(sigmas[0]), sigmas[0])
    for t, sigma in zip(scheduler.timesteps, sigmas, strict=False):
        clean = theirs.at(x * (1.0 + sigma**2) ** 0.5, sigma)
        x = scheduler.step(clean, int(t), x).prev_sample
    assert_same(mine, theirs)
    torch.testing.assert_close(result, x, rtol=0, atol=ROUNDING)


def test_heun(schedulers) -> None:
    sigmas = levels(STEPS)
    mine, result = ours("heun", sigmas)
    scheduler = schedulers.HeunDiscreteScheduler()
    scheduler.set_timesteps(STEPS)
    # Every level but the ends serves twice: as the end of one step and the start of the next.
    scheduler.sigmas = torch.cat([sigmas[:1], sigmas[1:-1].repeat_interleave(2), sigmas[-1:]])
    scheduler.set_begin_index(0)
    theirs, x = Path(), NOISE * float(sigmas[0])
    for t, sigma in zip(scheduler.timesteps, scheduler.sigmas, strict=False):
        x = scheduler.step((x - theirs.at(x, sigma)) / sigma, t, x).prev_sample
    assert_same(mine, theirs)
    # Its last step adds and takes away noise as ours does.
    torch.testing.assert_close(result, x, rtol=0, atol=ROUNDING)


@pytest.mark.parametrize(
    ("name", "algorithm"), [("dpmpp_2m", "dpmsolver++"), ("dpmpp_2m_sde", "sde-dpmsolver++")]
)
@pytest.mark.parametrize("steps", [8, STEPS])
def test_dpm_solver(schedulers, name: str, algorithm: str, steps: int) -> None:
    sigmas = levels(steps)
    stochastic = SAMPLERS[name].stochastic
    mine, result = ours(name, sigmas, fresh_from(5, SHAPE) if stochastic else None)
    scheduler = schedulers.DPMSolverMultistepScheduler(
        prediction_type="sample", algorithm_type=algorithm, solver_order=2, solver_type="midpoint"
    )
    scheduler.set_timesteps(steps)
    scheduler.sigmas = sigmas
    scheduler.set_begin_index(0)
    theirs, x = Path(), preserved(NOISE * float(sigmas[0]), sigmas[0])
    # It asks for noise at the last step too, and multiplies it by zero.
    fresh = fresh_from(5, SHAPE)
    for step, (t, sigma) in enumerate(zip(scheduler.timesteps, sigmas, strict=False)):
        clean = theirs.at(x * (1.0 + sigma**2) ** 0.5, sigma)
        noise = fresh(step) if stochastic else None
        x = scheduler.step(clean, t, x, variance_noise=noise).prev_sample
    assert_same(mine, theirs)
    torch.testing.assert_close(result, x, rtol=0, atol=ROUNDING)


def test_ddpm(schedulers) -> None:
    sigmas = levels(STEPS)
    mine, result = ours("ddpm", sigmas, fresh_from(5, SHAPE))
    scheduler = with_levels(
        schedulers.DDPMScheduler(STEPS, prediction_type="sample", clip_sample=False), sigmas
    )
    theirs, x = Path(), preserved(NOISE * float(sigmas[0]), sigmas[0])
    # It draws its noise inside the step: from a generator of the same seed, in the same order.
    generator = torch.Generator().manual_seed(5)
    for t, sigma in zip(scheduler.timesteps, sigmas, strict=False):
        clean = theirs.at(x * (1.0 + sigma**2) ** 0.5, sigma)
        x = scheduler.step(clean, int(t), x, generator=generator).prev_sample
    assert_same(mine, theirs)
    torch.testing.assert_close(result, x, rtol=0, atol=ROUNDING)


def test_plms(schedulers) -> None:
    sigmas = levels(STEPS)
    mine, result = ours("plms", sigmas)
    # Without its Runge-Kutta steps it warms up as ours does, by one step of Heun's rule.
    scheduler = with_levels(
        schedulers.PNDMScheduler(STEPS, skip_prk_steps=True, set_alpha_to_one=True), sigmas
    )
    theirs, x = Path(), preserved(NOISE * float(sigmas[0]), sigmas[0])
    for t in scheduler.timesteps:
        sigma = sigmas[STEPS - 1 - int(t)]
        point = x * (1.0 + sigma**2) ** 0.5
        slope = (point - theirs.at(point, sigma)) / sigma
        x = scheduler.step(slope.float(), int(t), x).prev_sample
    assert_same(mine, theirs)
    # It ends by one more weighting of the last slopes, which a step to zero in one leap does not bear out;
    # ours ends by the denoised result. They differ by a share of the last noise level.
    difference = float((result - x).abs().max())
    assert ROUNDING < difference < 0.2 * float(sigmas[-2])


def test_euler_on_the_rectified_flow(schedulers) -> None:
    sigmas = flow_schedule(STEPS, sigma_max=FIRST_LEVEL)
    mine, result = ours("flow_euler", sigmas)
    times = sigmas / (1.0 + sigmas)
    scheduler = schedulers.FlowMatchEulerDiscreteScheduler()
    scheduler.set_timesteps(sigmas=times[:-1].tolist())
    scheduler.set_begin_index(0)
    theirs, x = Path(), NOISE * float(times[0])
    for t, time in zip(scheduler.timesteps, times, strict=False):
        clean = theirs.at(x / (1.0 - time), time / (1.0 - time))
        x = scheduler.step(((x - clean) / time).float(), t, x).prev_sample
    assert_same(mine, theirs)
    torch.testing.assert_close(result, x, rtol=0, atol=ROUNDING)
