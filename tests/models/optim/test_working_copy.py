"""The working copy computes in bf16, the master learns in fp32, and nothing gets lost between them."""

from __future__ import annotations

import pytest
import torch

from models.devices import choices
from models.diffusion.denoiser import Denoiser
from models.diffusion.objective import denoising_loss
from models.network.network import NetworkSpec
from models.optim.precision import Precision
from models.optim.working_copy import WorkingCopy

SPEC = NetworkSpec(
    (8, 8), 2, channels=(8, 16), attention=(False, True), num_head_channels=8, num_norm_groups=8
)


def gradients(denoiser: Denoiser) -> dict[str, torch.Tensor]:
    return {name: p.grad.clone() for name, p in denoiser.named_parameters() if p.grad is not None}


def backward(denoiser: Denoiser) -> None:
    generator = torch.Generator().manual_seed(0)
    clean, noise = (torch.randn(16, 1, 8, 8, generator=generator) for _ in range(2))
    sigma, labels = torch.rand(16, generator=generator) + 0.2, torch.arange(16) % 3
    weight = denoiser.loss_weight(sigma)
    denoising_loss(denoiser, clean, labels, sigma=sigma, noise=noise, weight=weight).mean().backward()


def order_in_memory(tensor: torch.Tensor) -> list[tuple[int, int]]:
    """Return (axis, stride) of the axes that have more than one place."""
    return [(axis, tensor.stride(axis)) for axis, size in enumerate(tensor.shape) if size > 1]


def trained() -> Denoiser:
    denoiser = Denoiser(SPEC)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in denoiser.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return denoiser


@pytest.mark.parametrize(
    "choice", [Precision(*own) for own in choices("cpu").arithmetic], ids=lambda choice: choice.name
)
def test_gradients_arrive_in_fp32_in_the_masters_layout(choice: Precision) -> None:
    exact = trained()
    backward(exact)
    expected = gradients(exact)

    master = trained()
    working = WorkingCopy(master, choice)
    backward(working.denoiser)
    working.return_gradients()
    found = gradients(master)
    assert found.keys() == expected.keys()
    whole = torch.cat([gradient.flatten() for gradient in expected.values()])
    error = torch.cat([(found[name] - expected[name]).flatten() for name in expected])
    assert float(error.norm()) < (0.05 if choice.dtype == "bf16" else 1e-4) * float(whole.norm())
    for parameter in master.parameters():
        assert parameter.dtype == torch.float32
        assert parameter.grad is not None
        assert order_in_memory(parameter.grad) == order_in_memory(parameter)


def test_steps_too_small_for_bf16_add_up_in_the_master() -> None:
    master = trained()
    working = WorkingCopy(master, Precision("bf16", channels_last=False))
    watched, shown = next(master.parameters()), next(working.denoiser.parameters())
    before = shown.detach().clone()
    for step in range(400):
        with torch.no_grad():
            watched.mul_(1.0 + 1e-4)
        working.take_weights()
        if step == 0:
            assert torch.equal(shown.sign(), before.sign())
            # Most values are unchanged by one step: it is smaller than their rounding.
            assert float((shown == before).float().mean()) > 0.9
    torch.testing.assert_close(shown.float(), watched, rtol=0.01, atol=1e-6)
    assert float((shown == before).float().mean()) < 0.1


def test_a_gradient_of_an_earlier_step_is_never_used_twice() -> None:
    master = trained()
    working = WorkingCopy(master, Precision("bf16", channels_last=False))
    backward(working.denoiser)
    working.return_gradients()
    first = gradients(master)
    working.clear_gradients()
    backward(working.denoiser)
    working.return_gradients()
    assert all(torch.equal(first[name], gradient) for name, gradient in gradients(master).items())
    working.return_gradients()
    assert not any(gradient.any() for gradient in gradients(master).values())


def test_in_fp32_both_are_one() -> None:
    master = trained()
    working = WorkingCopy(master, Precision("fp32", channels_last=False))
    assert working.denoiser is master
    backward(working.denoiser)
    working.clear_gradients()
    assert all(parameter.grad is None for parameter in master.parameters())
