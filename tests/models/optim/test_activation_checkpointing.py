"""Recomputed activations give the same gradients from less kept memory."""

from __future__ import annotations

import copy

import pytest
import torch

from models.diffusion.denoiser import Denoiser
from models.network.network import NetworkSpec
from models.optim.activation_checkpointing import recompute_activations
from models.optim.precision import Precision, trial_batch
from models.optim.working_copy import WorkingCopy

SPEC = NetworkSpec(
    (16, 16), 2, channels=(8, 16), attention=(False, True), num_head_channels=8, num_norm_groups=8
)


def denoiser() -> Denoiser:
    made = Denoiser(SPEC)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return made


def kept_bytes(model: Denoiser) -> int:
    """Return the bytes that a forward pass keeps for its backward pass."""
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.data_ptr()] = tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        trial_batch(model, 4)
    model.zero_grad()
    weights = {parameter.data_ptr() for parameter in model.parameters()}
    return sum(size for pointer, size in sizes.items() if pointer not in weights)


def test_gradients_are_equal_and_less_is_kept() -> None:
    plain = denoiser()
    saving = copy.deepcopy(plain)
    assert recompute_activations(saving) == 5
    assert kept_bytes(saving) < 0.5 * kept_bytes(plain)
    for model in (plain, saving):
        trial_batch(model, 4)
    for expected, found in zip(plain.parameters(), saving.parameters(), strict=True):
        assert (expected.grad is None) == (found.grad is None)
        if expected.grad is not None:
            torch.testing.assert_close(found.grad, expected.grad, rtol=1e-5, atol=1e-7)
    assert [name for name, _ in saving.named_parameters()] == [name for name, _ in plain.named_parameters()]


@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_a_working_copy_recomputes_with_its_own_weights(dtype: str) -> None:
    grads = []
    for recompute in (False, True):
        master = denoiser()
        working = WorkingCopy(master, Precision(dtype, channels_last=False), recompute=recompute)
        trial_batch(working.denoiser, 4, working.compute)
        working.return_gradients()
        grads.append([parameter.grad for parameter in master.parameters() if parameter.grad is not None])
    assert len(grads[0]) == len(grads[1])
    for expected, found in zip(*grads, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-7)
