"""An allocation that fails is told from other errors, and a size that fits is found by trying."""

from __future__ import annotations

import pytest
import torch

from models.diffusion.denoiser import Denoiser
from models.diffusion.objective import denoising_loss
from models.network.spec import NetworkSpec
from models.optim import memory
from models.optim.activation_checkpointing import recompute_activations
from models.optim.memory import TRANSIENT, largest_that_fits, out_of_memory, saved_bytes, step_bytes
from models.optim.precision import Precision, apply_precision

SPEC = NetworkSpec(
    (24, 24),
    2,
    channels=(8, 16),
    attention=(False, True),
    num_head_channels=8,
    num_norm_groups=8,
    patch_size=2,
)


def test_errors_of_real_allocators_are_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    assert out_of_memory(caught.value)
    assert out_of_memory(MemoryError())
    assert out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"))
    assert not out_of_memory(RuntimeError("shapes do not match"))
    assert not out_of_memory(ValueError("not enough memory"))


def test_halves_are_tried_until_one_fits() -> None:
    tried: list[int] = []

    def attempt(size: int) -> None:
        tried.append(size)
        if size > 5:
            torch.empty(2**62, dtype=torch.uint8)

    assert largest_that_fits(attempt, 64) == 4
    assert tried == [32, 16, 8, 4]


def test_nothing_may_fit_and_other_errors_stay() -> None:
    def never(_size: int) -> None:
        raise MemoryError

    def broken(_size: int) -> None:
        raise RuntimeError("a bug")

    assert largest_that_fits(never, 64) == 0
    with pytest.raises(RuntimeError, match="a bug"):
        largest_that_fits(broken, 64)


def test_what_a_scan_more_keeps_for_the_backward_pass_is_counted() -> None:
    layers = torch.nn.Sequential(torch.nn.Linear(100, 50), torch.nn.Tanh(), torch.nn.Linear(50, 10))
    # The input of either linear layer (the second is what tanh keeps), four bytes a number.
    assert saved_bytes(lambda count: layers(torch.zeros(count, 100))) == 4 * 150


def kept_by(denoiser: Denoiser) -> int:
    """Return the bytes per scan that a real forward pass keeps."""

    def forward(count: int) -> torch.Tensor:
        images = torch.zeros(count, *denoiser.sample_shape)
        sigma, codes = torch.ones(count), denoiser.null_codes(count)
        noise, weight = torch.randn_like(images), denoiser.loss_weight(sigma)
        return denoising_loss(denoiser, images, codes, sigma=sigma, noise=noise, weight=weight)

    return saved_bytes(forward)


@pytest.mark.parametrize("largest", [0, 128**2])
@pytest.mark.parametrize("dtype", ["fp32", "bf16"])
def test_the_estimate_is_that_of_a_real_pass(
    dtype: str, largest: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whether images are too large to compute on, or not.
    monkeypatch.setattr(memory, "LARGE_IMAGE", largest)
    denoiser = apply_precision(Denoiser(SPEC), Precision(dtype, channels_last=False)).train()
    estimate = step_bytes(denoiser, recompute=False)
    assert estimate == pytest.approx(TRANSIENT * kept_by(denoiser), rel=0.02)
    assert next(denoiser.parameters()).device.type == "cpu"


def test_recomputing_needs_what_the_largest_block_keeps() -> None:
    denoiser = Denoiser(SPEC).train()
    whole, less = (step_bytes(denoiser, recompute=chosen) for chosen in (False, True))
    recompute_activations(denoiser)
    assert TRANSIENT * kept_by(denoiser) < less < 0.8 * whole


def test_augmentation_features_are_given_where_the_network_asks_for_them() -> None:
    import dataclasses

    spec = dataclasses.replace(SPEC, augment_features=7, conditions=(3,))
    assert step_bytes(Denoiser(spec), recompute=False) > 0
