"""Muon brings singular values near 1, treats matrices alone as together, and steps as the library's does."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from models.optim.muon import LIFTED_TO, SMALLEST_LIFTED, Muon, as_matrix, orthogonalise


def with_singular_values(values: Tensor, columns: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    left = torch.linalg.qr(torch.randn(len(values), len(values), generator=generator)).Q
    right = torch.linalg.qr(torch.randn(columns, len(values), generator=generator)).Q
    return left @ torch.diag(values) @ right.T


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seed", range(4))
def test_singular_values_are_lifted_and_their_vectors_kept(dtype: torch.dtype, seed: int) -> None:
    """Spectra from flat to ones that fall to a hundredth of the norm, at any scale."""
    spread = torch.logspace(0, -seed * 0.6, 48)
    matrix = with_singular_values(spread * 10.0 ** (3 * seed - 6), 96, seed)
    (lifted,) = orthogonalise(matrix[None], dtype).to(torch.float32)
    u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
    reached = torch.diag(u.T @ lifted @ vh.T)
    large = s >= SMALLEST_LIFTED * s.norm()
    assert large.any()
    slack = 0.06 if dtype == torch.bfloat16 else 0.005
    assert float(reached[large].min()) >= LIFTED_TO[0] - slack
    assert float(reached[large].max()) <= LIFTED_TO[1] + slack
    # What is left beside these directions is rounding.
    rest = lifted - u @ torch.diag(reached) @ vh
    assert float(torch.linalg.matrix_norm(rest, 2)) < (0.15 if dtype == torch.bfloat16 else 1e-3)


def test_zero_stays_zero() -> None:
    assert torch.equal(
        orthogonalise(torch.zeros(2, 3, 5), torch.bfloat16), torch.zeros(2, 3, 5, dtype=torch.bfloat16)
    )


def test_together_is_as_alone() -> None:
    drawn = torch.randn(5, 16, 40, generator=torch.Generator().manual_seed(1))
    alone = torch.cat([orthogonalise(one[None], torch.float32) for one in drawn])
    torch.testing.assert_close(orthogonalise(drawn, torch.float32), alone, rtol=0, atol=1e-5)


def steps(optimiser_of: object, learning_rate: float = 1e-2, count: int = 4) -> list[Tensor]:
    """Weights of several shapes after some steps under gradients that are the same each time."""
    generator = torch.Generator().manual_seed(2)
    weights = [
        nn.Parameter(torch.randn(shape, generator=generator))
        for shape in ((24, 8), (8, 24), (24, 24), (8, 24))
    ]
    step = optimiser_of(weights, learning_rate)  # type: ignore[operator]
    for _ in range(count):
        for weight in weights:
            weight.grad = torch.randn(weight.shape, generator=generator)
        step()
    return [weight.detach() for weight in weights]


def test_steps_are_those_of_the_library() -> None:
    """Same momentum, size, decay; the singular values differ by what both leave around 1."""

    def ours(weights: list[nn.Parameter], learning_rate: float) -> object:
        muon = Muon(weights, weight_decay=0.5, dtype=torch.float32)
        return lambda: muon.step(learning_rate)

    def theirs(weights: list[nn.Parameter], learning_rate: float) -> object:
        return torch.optim.Muon(
            weights, lr=learning_rate, weight_decay=0.5, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        ).step

    start = steps(ours, 0.0)
    for found, expected, before in zip(steps(ours), steps(theirs), start, strict=True):
        change, wanted = found - before, expected - before
        cosine = torch.nn.functional.cosine_similarity(change.flatten(), wanted.flatten(), dim=0)
        assert float(cosine) > 0.97
        assert float(change.norm() / wanted.norm()) == pytest.approx(1.0, abs=0.25)


def test_a_weight_with_gaps_is_refused() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        as_matrix(torch.zeros(4, 6)[:, ::2])
