"""Guidance mixes class and null class as its formula says, and costs nothing at scale 1."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from models.denoiser import Denoiser
from models.guidance import guided_denoise
from models.network import NetworkSpec

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
    torch.testing.assert_close(guided_denoise(denoiser, labels, scale)(x, sigma), expected)


@torch.no_grad()
@pytest.mark.parametrize(("scale", "images"), [(0.0, 3), (1.0, 3), (2.0, 6)])
def test_cost(denoiser: Denoiser, scale: float, images: int) -> None:
    sizes = passes(denoiser)
    guided_denoise(denoiser, torch.tensor([0, 1, 1]), scale)(torch.randn(3, 1, 8, 8), torch.ones(3))
    assert sizes == [images]


def test_wrong_arguments_are_named(denoiser: Denoiser) -> None:
    with pytest.raises(ValueError, match="guidance_scale"):
        guided_denoise(denoiser, torch.tensor([0]), -1.0)
    with pytest.raises(ValueError, match="labels"):
        guided_denoise(denoiser, torch.tensor([3]))
