"""The private gradient is the sum of clipped gradients of single scans, and noise of the stated size."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from models.diffusion.denoiser import Denoiser
from models.diffusion.objective import SigmaDistribution, denoising_loss
from models.network.network import NetworkSpec
from models.network.upsampling import UpsampleConvolution
from models.optim.private_gradient import PrivateGradient

pytest.importorskip("opacus", reason="needs the extra dp: pip install 'phosphor-xray[dp]'")

COUNT = 7


def denoiser() -> Denoiser:
    spec = NetworkSpec(
        (16, 16),
        3,
        channels=(8, 16),
        attention=(False, True),
        num_head_channels=8,
        num_norm_groups=8,
        conditions=(2,),
        augment_features=7,
    )
    made = Denoiser(spec, seed=1)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made


def scans() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(2)
    return {
        "clean": torch.randn((COUNT, 1, 16, 16), generator=generator).clamp(-1, 1),
        "codes": torch.tensor([[i % 4, i % 3] for i in range(COUNT)]),
        "sigma": SigmaDistribution(stratified=False).sample(COUNT, generator),
        "noise": torch.randn((COUNT, 1, 16, 16), generator=generator),
        "augment": torch.randn((COUNT, 7), generator=generator),
    }


def losses(compute: object, batch: dict[str, Tensor], rows: slice) -> Tensor:
    part = {name: values[rows] for name, values in batch.items()}
    part["weight"] = denoiser().loss_weight(part["sigma"])
    return denoising_loss(compute, part.pop("clean"), part.pop("codes"), **part)  # type: ignore[arg-type]


def one_by_one(model: Denoiser, batch: dict[str, Tensor]) -> list[list[Tensor]]:
    found = []
    for i in range(COUNT):
        model.zero_grad()
        losses(model, batch, slice(i, i + 1)).sum().backward()
        found.append([parameter.grad.clone() for parameter in model.parameters()])  # type: ignore[union-attr]
    return found


def norm(gradient: list[Tensor]) -> float:
    return float(torch.stack([part.norm() for part in gradient]).norm())


@pytest.mark.parametrize("at_once", [COUNT, 3])
def test_it_is_the_sum_of_clipped_gradients_taken_one_scan_at_a_time(at_once: int) -> None:
    plain, batch = denoiser(), scans()
    single = one_by_one(copy.deepcopy(plain), batch)
    norms = sorted(norm(gradient) for gradient in single)
    bound = norms[COUNT // 2]
    assert norms[0] < 0.9 * bound and norms[-1] > 1.1 * bound  # some are clipped, some are not
    private = PrivateGradient(plain, noise_multiplier=0.0, max_grad_norm=bound, expected_batch=5.0)
    for first in range(0, COUNT, at_once):
        private.add(losses(private.compute, batch, slice(first, first + at_once)))
    private.finish(torch.Generator().manual_seed(0))
    factors = [min(1.0, bound / (norm(gradient) + 1e-6)) for gradient in single]
    for place, parameter in enumerate(plain.parameters()):
        expected = sum(factor * gradient[place] for factor, gradient in zip(factors, single, strict=True)) / 5
        torch.testing.assert_close(parameter.grad, expected, rtol=1e-3, atol=1e-6)


def test_no_scan_moves_the_gradient_by_more_than_the_bound() -> None:
    bound, batch, sums = 0.01, scans(), []
    for rows in (slice(0, COUNT), slice(0, COUNT - 1)):
        plain = denoiser()
        private = PrivateGradient(plain, noise_multiplier=0.0, max_grad_norm=bound, expected_batch=1.0)
        private.add(losses(private.compute, batch, rows))
        private.finish(torch.Generator().manual_seed(0))
        sums.append([parameter.grad.clone() for parameter in plain.parameters()])  # type: ignore[union-attr]
    moved = norm([whole - less for whole, less in zip(*sums, strict=True)])
    assert 0.9 * bound < moved < 1.001 * bound


def test_without_scans_it_is_noise_of_the_stated_size_and_each_step_begins_anew() -> None:
    plain, batch = denoiser(), scans()
    private = PrivateGradient(plain, noise_multiplier=3.0, max_grad_norm=0.5, expected_batch=4.0)
    private.add(losses(private.compute, batch, slice(0, COUNT)))
    private.finish(torch.Generator().manual_seed(5))
    private.finish(torch.Generator().manual_seed(5))
    values = torch.cat([parameter.grad.flatten() for parameter in plain.parameters()])  # type: ignore[union-attr]
    # 3.0 x 0.5 / 4; a standard deviation of n values is known to within 1 / sqrt(2 n).
    assert float(values.std()) == pytest.approx(0.375, rel=4 / (2 * len(values)) ** 0.5)
    assert abs(float(values.mean())) < 4 * 0.375 / len(values) ** 0.5


def test_hooks_leave_what_the_denoiser_computes_as_it_was() -> None:
    plain, batch = denoiser(), scans()
    with torch.no_grad():
        before = losses(plain, batch, slice(None))
    private = PrivateGradient(plain, noise_multiplier=1.0, max_grad_norm=1.0, expected_batch=1.0)
    layers = [layer for layer in plain.modules() if isinstance(layer, UpsampleConvolution)]
    assert layers and not any(layer.fused for layer in layers)
    with torch.no_grad():
        torch.testing.assert_close(losses(private.compute, batch, slice(None)), before, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(losses(plain, batch, slice(None)), before, rtol=1e-4, atol=1e-6)
