"""Guidance mixes class and null class as its formula says, and costs nothing at scale 1."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.diffusion.denoiser import Denoiser
from models.diffusion.guidance import Guidance, guided_denoise
from models.network.network import NetworkSpec

SPEC = NetworkSpec((8, 8), 2, channels=(8,), attention=(False,), num_head_channels=8, num_norm_groups=8)


@pytest.fixture
def denoiser() -> Denoiser:
    made = Denoiser(SPEC).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    return made


def passes(denoiser: Denoiser) -> list[int]:
    sizes: list[int] = []
    denoiser.network.register_forward_hook(lambda module, inputs, output: sizes.append(len(output)))
    return sizes


@torch.no_grad()
@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 3.0])
def test_formula(denoiser: Denoiser, scale: float) -> None:
    x, sigma, labels = torch.randn(3, 1, 8, 8), torch.ones(3), torch.tensor([0, 1, 1])
    null = denoiser(x, sigma, torch.full_like(labels, denoiser.null_label))
    expected: Tensor = null + scale * (denoiser(x, sigma, labels) - null)
    torch.testing.assert_close(guided_denoise(denoiser, labels, scale)(x, 1.0), expected)


@torch.no_grad()
@pytest.mark.parametrize(("scale", "images"), [(0.0, 3), (1.0, 3), (2.0, 6)])
def test_cost(denoiser: Denoiser, scale: float, images: int) -> None:
    sizes = passes(denoiser)
    guided_denoise(denoiser, torch.tensor([0, 1, 1]), scale)(torch.randn(3, 1, 8, 8), 1.0)
    assert sizes == [images]


@torch.no_grad()
def test_guidance_acts_inside_its_interval_only(denoiser: Denoiser) -> None:
    labels = torch.tensor([0, 1])
    x = torch.randn(2, 1, 8, 8)
    plain, guided = (
        guided_denoise(denoiser, labels),
        guided_denoise(denoiser, labels, Guidance(3.0, 0.5, 2.0)),
    )
    everywhere = guided_denoise(denoiser, labels, 3.0)
    for level, same_as in ((0.4, plain), (0.5, plain), (1.0, everywhere), (2.0, everywhere), (2.1, plain)):
        torch.testing.assert_close(guided(x, level), same_as(x, level), rtol=0, atol=0)


@torch.no_grad()
def test_negative_class_is_guided_away_from(denoiser: Denoiser) -> None:
    x, sigma, labels = torch.randn(2, 1, 8, 8), torch.ones(2), torch.tensor([0, 0])
    other = denoiser(x, sigma, torch.tensor([1, 1]))
    expected = other + 2.0 * (denoiser(x, sigma, labels) - other)
    guided = guided_denoise(denoiser, labels, Guidance(2.0, away_from=torch.tensor([1])))
    torch.testing.assert_close(guided(x, 1.0), expected)


@torch.no_grad()
@pytest.mark.parametrize("scale", [0.0, 1.0, 1.7])
def test_a_weaker_denoiser_guides_under_the_same_class(denoiser: Denoiser, scale: float) -> None:
    weaker = Denoiser(SPEC, sigma_data=0.5).eval()
    x, sigma, labels = torch.randn(2, 1, 8, 8), torch.ones(2), torch.tensor([0, 1])
    weak = weaker(x, sigma, labels)
    expected = weak + scale * (denoiser(x, sigma, labels) - weak)
    guided = guided_denoise(denoiser, labels, Guidance(scale, guide=weaker))
    torch.testing.assert_close(guided(x, 1.0), expected)


def test_wrong_arguments_are_named(denoiser: Denoiser) -> None:
    with pytest.raises(ValueError, match="guidance_scale"):
        guided_denoise(denoiser, torch.tensor([0]), -1.0)
    with pytest.raises(ValueError, match="interval"):
        Guidance(2.0, 3.0, 1.0)
    with pytest.raises(ValueError, match="either"):
        Guidance(2.0, away_from=torch.tensor([1]), guide=denoiser)
    with pytest.raises(ValueError, match="codes"):
        guided_denoise(denoiser, torch.tensor([3]))
