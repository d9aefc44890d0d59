"""The learned weighting finds the expected loss of every noise level, and divides by it."""

from __future__ import annotations

import torch

from models.diffusion.loss_weighting import Uncertainty
from models.diffusion.objective import SigmaDistribution


def expected_loss(sigma: torch.Tensor) -> torch.Tensor:
    """Return a loss that falls from about 1 to about 0.05 as noise grows, as a denoiser's does."""
    return 0.05 + 0.95 / (1.0 + (sigma / 0.3).square())


def test_it_starts_as_no_weighting() -> None:
    losses, sigma = torch.rand(5), torch.linspace(0.01, 50, 5)
    assert torch.equal(Uncertainty().weigh(losses, sigma), losses)


def test_it_learns_the_expected_loss_of_noisy_losses() -> None:
    generator = torch.Generator().manual_seed(1)
    levels = SigmaDistribution()
    weighting = Uncertainty()
    optimizer = torch.optim.Adam(weighting.parameters(), lr=1e-2)
    for step in range(600):
        optimizer.param_groups[0]["lr"] = 1e-2 * (1 - step / 600)
        sigma = levels.sample(128, generator)
        losses = expected_loss(sigma) * (0.5 + torch.rand(128, generator=generator))
        optimizer.zero_grad()
        weighting.weigh(losses, sigma).mean().backward()
        optimizer.step()
    sigma = torch.tensor([0.05, 0.15, 0.3, 0.6, 1.2])
    with torch.no_grad():
        torch.testing.assert_close(weighting(sigma).exp(), expected_loss(sigma), rtol=0.1, atol=0)


def test_the_denoiser_is_moved_by_what_is_left_to_gain() -> None:
    weighting = Uncertainty()
    torch.nn.init.constant_(weighting.linear.bias, 2.0)
    losses = torch.rand(4, requires_grad=True)
    weighting.weigh(losses, torch.ones(4)).sum().backward()
    assert losses.grad is not None
    torch.testing.assert_close(losses.grad, torch.full((4,), 2.0).neg().exp())
