"""Noise levels follow their distribution, the loss follows its formula, labels drop at their share."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.diffusion.objective import SigmaDistribution, denoising_loss, drop_labels


def edm_weight(sigma: Tensor) -> Tensor:
    return (sigma**2 + 0.25) / (sigma * 0.5) ** 2


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_noise_levels_are_log_normal() -> None:
    sigma = SigmaDistribution(-1.2, 1.2).sample(20_000, generator())
    logarithm = sigma.log()
    assert float(logarithm.mean()) == pytest.approx(-1.2, abs=0.01)
    assert float(logarithm.std()) == pytest.approx(1.2, abs=0.01)
    normal = torch.distributions.Normal(-1.2, 1.2)
    below = torch.tensor([float((logarithm < level).float().mean()) for level in (-3.0, -1.0, 1.0)])
    torch.testing.assert_close(below, normal.cdf(torch.tensor([-3.0, -1.0, 1.0])), atol=0.01, rtol=0)


def test_each_place_of_a_batch_follows_the_distribution_alone() -> None:
    draws = torch.stack(
        [SigmaDistribution(0.0, 1.0).sample(4, generator(seed)).log() for seed in range(3000)]
    )
    assert float(draws.mean(dim=0).abs().max()) < 0.08
    assert float((draws.std(dim=0) - 1).abs().max()) < 0.06


def test_a_batch_covers_the_distribution_evenly() -> None:
    sigma = SigmaDistribution(0.0, 1.0).sample(8, generator()).log().sort().values
    shares = torch.distributions.Normal(0.0, 1.0).cdf(sigma)
    assert torch.equal((shares * 8).floor(), torch.arange(8.0))


def test_loss_is_one_for_a_perfect_skip_path() -> None:
    clean = torch.randn(4000, 1, 1, 1, generator=generator()) * 0.5
    noise = torch.randn(4000, 1, 1, 1, generator=generator(1))
    sigma = torch.full((4000,), 0.8)

    def skip(x: Tensor, sigma: Tensor, codes: Tensor, augment: Tensor | None) -> Tensor:
        return x * (0.25 / (sigma.reshape(-1, 1, 1, 1) ** 2 + 0.25))

    weight = edm_weight(sigma)
    codes = torch.zeros(4000, dtype=torch.int64)
    loss = denoising_loss(skip, clean, codes, sigma=sigma, noise=noise, weight=weight)
    assert float(loss.mean()) == pytest.approx(1.0, abs=0.08)


def test_loss_is_zero_for_the_truth_and_weighted_by_the_noise_level() -> None:
    clean = torch.randn(2, 1, 4, 4)
    labels = torch.zeros(2, dtype=torch.int64)
    sigma = torch.tensor([0.1, 10.0])
    noise = torch.randn(2, 1, 4, 4)

    def loss_of(result: Tensor) -> Tensor:
        weight = edm_weight(sigma)
        return denoising_loss(
            lambda x, s, c, a: result, clean, labels, sigma=sigma, noise=noise, weight=weight
        )

    assert not loss_of(clean).any()
    torch.testing.assert_close(loss_of(clean + 0.1), 0.01 * edm_weight(sigma), atol=0, rtol=1e-4)


def test_dropped_labels_become_the_null_class_at_their_share() -> None:
    codes = torch.randint(0, 3, (20_000, 1), generator=generator(3))
    dropped = drop_labels(codes, 0.1, (3,), generator())
    null = dropped == 3
    assert float(null.float().mean()) == pytest.approx(0.1, abs=0.01)
    assert torch.equal(dropped[~null], codes[~null])


def test_attributes_are_hidden_together_with_the_class_and_alone() -> None:
    codes = torch.zeros(50_000, 3, dtype=torch.int64)
    null = drop_labels(codes, 0.2, (4, 2, 7), generator()) == torch.tensor([4, 2, 7])
    assert null.float().mean(dim=0).tolist() == pytest.approx([0.2, 0.36, 0.36], abs=0.01)
    assert bool(null[null[:, 0]].all())


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0), (1.0, 50)])
def test_dropout_of_none_and_of_all(share: float, expected: int) -> None:
    dropped = drop_labels(torch.zeros(50, 1, dtype=torch.int64), share, (7,), generator())
    assert int((dropped == 7).sum()) == expected


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="share"):
        drop_labels(torch.zeros(1, 1, dtype=torch.int64), 1.5, (1,), generator())
    with pytest.raises(ValueError, match="std"):
        SigmaDistribution(0.0, 0.0)
