"""Membership inference attacks against denoisers whose memory is known."""

from __future__ import annotations

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

from models.privacy.membership import ATTACKS, attack_scores

SIGMAS = (0.1, 0.3)
SIDE = 8


class OptimalDenoiser(nn.Module):
    """The exact denoiser E[x | x + sigma n] of equally likely images, each with Gaussian spread around it."""

    def __init__(self, images: Tensor, spread: float) -> None:
        super().__init__()
        self.images, self.spread = images, spread

    def loss_weight(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + 0.25) / (sigma * 0.5) ** 2

    def forward(self, x: Tensor, sigma: Tensor, codes: Tensor, augment: Tensor | None = None) -> Tensor:
        noise, spread = sigma.square().reshape(-1, 1), self.spread**2
        flat, known = x.flatten(1), self.images.flatten(1)
        weight = torch.softmax(-torch.cdist(flat, known).square() / (2 * (noise + spread)), dim=1)
        # Within one component the posterior mean lies between the image and what was seen.
        share = spread / (spread + noise)
        return (share * flat + (1 - share) * (weight @ known)).reshape(x.shape)


def images(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (0.5 * torch.randn(count, 1, SIDE, SIDE, generator=generator)).clamp(-1, 1)


def aucs(denoiser: OptimalDenoiser, inside: Tensor, outside: Tensor) -> dict[str, float]:
    both = torch.cat([inside, outside])
    truth = [1] * len(inside) + [0] * len(outside)
    scores = attack_scores(denoiser, both, torch.zeros(len(both), dtype=torch.int64), SIGMAS)  # type: ignore[arg-type]
    assert scores.shape == (len(both), len(ATTACKS), len(SIGMAS))
    return {
        f"{name} {sigma}": float(roc_auc_score(truth, scores[:, i, j]))
        for i, name in enumerate(ATTACKS)
        for j, sigma in enumerate(SIGMAS)
    }


def test_a_denoiser_that_remembers_gives_its_members_away() -> None:
    inside, outside = images(60, 1), images(60, 2)
    found = aucs(OptimalDenoiser(inside, spread=0.02), inside, outside)
    # The proximal attack at levels near its own smallest one sees least.
    assert all(value > 0.99 for name, value in found.items() if not name.startswith("pia")), found
    assert all(value > 0.8 for value in found.values()), found


def test_a_denoiser_that_learnt_only_the_distribution_tells_nothing() -> None:
    """One broad Gaussian holds for members and others alike: AUCs lie near one half (4 standard errors)."""
    inside, outside = images(150, 3), images(150, 4)
    found = aucs(OptimalDenoiser(torch.zeros(1, 1, SIDE, SIDE), spread=0.5), inside, outside)
    error = (1 / 12 * (1 / 150 + 1 / 150)) ** 0.5
    assert all(abs(value - 0.5) < 4 * error for value in found.values()), found


def test_the_score_of_an_image_does_not_depend_on_its_batch() -> None:
    denoiser, both = OptimalDenoiser(images(20, 5), spread=0.05), images(12, 6)
    codes = torch.zeros(12, dtype=torch.int64)
    whole = attack_scores(denoiser, both, codes, SIGMAS)  # type: ignore[arg-type]
    parts = [attack_scores(denoiser, both[i : i + 5], codes[i : i + 5], SIGMAS) for i in (0, 5, 10)]  # type: ignore[arg-type]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sigmas", [(), (0.1, 0.0)])
def test_noise_levels_must_be_positive(sigmas: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="sigmas must be positive"):
        attack_scores(
            OptimalDenoiser(images(2, 7), 0.1), images(2, 8), torch.zeros(2, dtype=torch.int64), sigmas
        )  # type: ignore[arg-type]
