"""Muon takes the matrices inside the network, whatever their layout; the state can be saved and set."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.diffusion.denoiser import Denoiser
from models.network.network import NetworkSpec
from models.optim.optimiser import Optimiser

SPEC = NetworkSpec(
    (8, 8), 2, channels=(8, 16), attention=(False, True), num_head_channels=8, num_norm_groups=8
)


def gradients(denoiser: nn.Module, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for parameter in denoiser.parameters():
        drawn = torch.randn(parameter.shape, generator=generator)
        parameter.grad = torch.empty_like(parameter).copy_(drawn)


def changes(denoiser: nn.Module, name: str, steps: int = 1) -> dict[str, Tensor]:
    before = {own: parameter.detach().clone() for own, parameter in denoiser.named_parameters()}
    optimiser = Optimiser(denoiser.named_parameters(), name=name, weight_decay=0.0)  # type: ignore[arg-type]
    for step in range(steps):
        gradients(denoiser, step)
        optimiser.step(1e-2)
    return {own: parameter.detach() - before[own] for own, parameter in denoiser.named_parameters()}


def test_a_step_of_a_matrix_has_nearly_equal_singular_values_and_the_size_of_adamw() -> None:
    change = changes(Denoiser(SPEC), "muon")
    kernels = [value for name, value in change.items() if "blocks" in name and value.ndim == 4]
    assert kernels
    for kernel in kernels:
        values = torch.linalg.svdvals(kernel.flatten(1))
        assert float(values.min() / values.max()) > 0.4
        assert float(kernel.square().mean().sqrt()) == pytest.approx(0.2 * 1e-2, rel=0.3)


def test_all_else_changes_as_under_adamw() -> None:
    muon, adamw = changes(Denoiser(SPEC), "muon", 3), changes(Denoiser(SPEC), "adamw", 3)
    same = [name for name in muon if torch.equal(muon[name], adamw[name])]
    assert "network.class_embedding.rows.weight" in same
    assert "network.conv_in.conv.weight" in same
    assert all(adamw[name].ndim == 1 or "block" not in name for name in same)
    assert not any(adamw[name].ndim == 4 and "block" in name for name in same)


def test_the_memory_layout_does_not_matter() -> None:
    plain, other = Denoiser(SPEC), Denoiser(SPEC)
    for parameter in other.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    expected, found = changes(plain, "muon", 2), changes(other, "muon", 2)
    for name, value in expected.items():
        # Sums in another order, rounded to bf16 in between.
        torch.testing.assert_close(found[name], value, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_copied_state_goes_on_as_the_original(name: str) -> None:
    one, two = Denoiser(SPEC), Denoiser(SPEC)
    first = Optimiser(one.named_parameters(), name=name, weight_decay=0.1)  # type: ignore[arg-type]
    for step in range(3):
        gradients(one, step)
        first.step(1e-2)
    two.load_state_dict(one.state_dict())
    second = Optimiser(two.named_parameters(), name=name, weight_decay=0.1)  # type: ignore[arg-type]
    for own, tensor in second.tensors().items():
        tensor.copy_(first.tensors()[own])
    second.set_step(3)
    for optimiser, denoiser in ((first, one), (second, two)):
        gradients(denoiser, 9)
        optimiser.step(1e-2)
    for parameter, copied in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(parameter, copied)
