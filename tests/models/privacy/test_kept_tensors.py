"""What is kept is made once for each size, type and device, and of use wherever it was made first."""

from __future__ import annotations

import torch

from models.privacy.kept_tensors import kept_for
from tests.pretended import META

MADE: list[tuple[float, ...]] = []


def ramp(size: int, top: float) -> torch.Tensor:
    MADE.append((size, top))
    return torch.linspace(0, top, size, dtype=torch.float64)


def test_it_is_made_once_for_each_size_type_and_device() -> None:
    MADE.clear()
    images = torch.zeros(1)
    first = kept_for(images, ramp, 5, 2.0)
    assert kept_for(images + 1, ramp, 5, 2.0) is first
    assert first.dtype == torch.float32 and torch.equal(first, torch.linspace(0, 2, 5))
    assert kept_for(images.double(), ramp, 5, 2.0).dtype == torch.float64
    assert kept_for(images, ramp, 6, 2.0).shape == (6,)
    assert kept_for(torch.zeros(1, device=META), ramp, 5, 2.0).device == META
    assert MADE == [(5, 2.0), (5, 2.0), (6, 2.0), (5, 2.0)]


def test_made_in_a_search_it_may_be_trained_with() -> None:
    weight = torch.ones(4, requires_grad=True)
    with torch.inference_mode():
        kept_for(weight, ramp, 4, 6.0)
    (weight * kept_for(weight, ramp, 4, 6.0)).sum().backward()
    assert weight.grad is not None and torch.equal(weight.grad, torch.tensor([0.0, 2.0, 4.0, 6.0]))
