"""Noising and denoising is undone where images are Gaussian, and the source is the likeliest image of all."""

from __future__ import annotations

import math

import pytest
import torch

from models.privacy.denoised_copies import LEAST_VARIANCE, Redraw, redraw, spacing

SIDE, NOISE = 12, 0.5


def gaussian(count: int, seed: int) -> torch.Tensor:
    """Return images (N, 1, H, W) of one Gaussian whose variance falls along fixed components."""
    basis = torch.linalg.qr(torch.randn(SIDE**2, SIDE**2, generator=torch.Generator().manual_seed(0)))[0]
    variance = 4.0 / (1 + torch.arange(SIDE**2)) ** 1.2
    drawn = torch.randn(count, SIDE**2, generator=torch.Generator().manual_seed(seed)) * variance.sqrt()
    return (drawn @ basis.T).view(count, 1, SIDE, SIDE)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return gaussian(4_000, 1)


@pytest.fixture(scope="module")
def fitted(images: torch.Tensor) -> Redraw:
    return redraw(images, NOISE)


def redrawn(fitted: Redraw, images: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return noised images (n, d) and what the probability flow makes of them, by its closed form."""
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(seed)) * NOISE
    noised = (images + noise).flatten(1) - fitted.mean
    shrunk = (fitted.variance / (fitted.variance + NOISE**2)).sqrt()
    clean = (noised @ fitted.basis * shrunk) @ fitted.basis.T + fitted.mean
    return noised @ fitted.basis, clean.view_as(images)


def test_what_was_done_is_undone(images: torch.Tensor, fitted: Redraw) -> None:
    noised, clean = redrawn(fitted, images[:200], 2)
    torch.testing.assert_close(fitted.undone(clean)[0], noised, atol=2e-3, rtol=1e-3)
    assert fitted.variance.min() >= LEAST_VARIANCE


def test_the_source_is_the_likeliest_and_new_images_are_likelier_new(
    images: torch.Tensor, fitted: Redraw
) -> None:
    _, copies = redrawn(fitted, images[:200], 3)
    known = fitted.known(images)
    noised, as_new = fitted.undone(copies)
    likely = fitted.log_likelihood(noised, known)
    assert (likely.argmax(dim=1) == torch.arange(200)).float().mean() >= 0.95
    ratio = likely.max(dim=1).values - as_new
    fresh, fresh_as_new = fitted.undone(gaussian(200, 4))
    fresh_ratio = fitted.log_likelihood(fresh, known).max(dim=1).values - fresh_as_new
    # The ratio is that of densities up to one constant, so that it tells copies from new images as a whole.
    higher = (ratio[:, None] > fresh_ratio[None, :]).float().mean()
    assert higher >= 0.97


def test_copies_stand_out_by_spacing_whatever_the_scale_of_the_values() -> None:
    generator = torch.Generator().manual_seed(5)
    others = torch.empty(300, 400).exponential_(generator=generator)
    best = torch.empty(300).exponential_(generator=generator) + others.amax(dim=1)
    found = spacing(others, best)
    # The next gap of exponential values is one scale, whatever the number of values.
    assert float(found.median()) == pytest.approx(math.log(2), rel=0.25)
    torch.testing.assert_close(spacing(7.0 * others + 3.0, 7.0 * best + 3.0), found, rtol=1e-3, atol=1e-3)
    masked = torch.cat([others, torch.full((300, 2), -torch.inf)], dim=1)
    torch.testing.assert_close(spacing(masked, best), found)


def test_with_few_others_nothing_breaks() -> None:
    one = torch.tensor([[0.5, -torch.inf]])
    assert float(spacing(one, torch.tensor([0.75]))) == pytest.approx(0.25)


def test_each_query_has_the_spacing_of_its_own_values() -> None:
    values, best = torch.tensor([[3.0, 1.0, 2.0], [4.0, -torch.inf, 1.0]]), torch.tensor([5.0, 7.0])
    # The gaps are 1 and twice 1 for the first, 3 for the second, which has one value less.
    torch.testing.assert_close(spacing(values, best), torch.tensor([2.0 / 1.5, 1.0]))


@pytest.mark.parametrize(("count", "noise"), [(1, 0.3), (5, 0.0)])
def test_what_cannot_be_fitted_is_refused(count: int, noise: float) -> None:
    with pytest.raises(ValueError, match="must"):
        redraw(torch.zeros(count, 1, 8, 8), noise)
