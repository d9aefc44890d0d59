"""The skip path by spatial frequency is the best linear filter of scans that have the assumed power."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.diffusion.denoiser import Denoiser
from models.diffusion.objective import denoising_loss
from models.diffusion.parametrisation import edm
from models.diffusion.spectral import SpectralSkip, cosine_basis, mean_power
from models.network.network import NetworkSpec
from pipeline.artifacts.checkpoint import SPECTRAL_LAW

LAW = (2, 1.984, 0.00048)
"""Number of the law, and its power at two coefficients of 8x8 pixels."""
SIZES = [(16, 16), (12, 20), (9, 7)]


def drawn(size: tuple[int, int], count: int, seed: int) -> torch.Tensor:
    """Gaussian scans (count, 1, H, W) of the assumed power at a sigma_data of 0.5."""
    generator = torch.Generator().manual_seed(seed)
    coefficients = torch.randn(count, 1, *size, generator=generator) * mean_power(size, 0.5).sqrt()
    return cosine_basis(size[0]).T @ coefficients @ cosine_basis(size[1])


def noisy(clean: torch.Tensor, sigma: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Scans with noise, and their noise levels (N, 1, 1, 1)."""
    noise = torch.randn(clean.shape, generator=torch.Generator().manual_seed(seed))
    return clean + sigma * noise, torch.full((len(clean), 1, 1, 1), sigma)


@pytest.mark.parametrize("side", [1, 2, 7, 64])
def test_the_cosine_basis_is_orthonormal(side: int) -> None:
    basis = cosine_basis(side)
    torch.testing.assert_close(basis @ basis.T, torch.eye(side), atol=2e-6, rtol=0)


@pytest.mark.parametrize("size", [*SIZES, (224, 224)])
@pytest.mark.parametrize("sigma_data", [0.1, 0.5, 2.0])
def test_power_falls_with_frequency_and_adds_up_to_the_variance_about_the_mean_scan(
    size: tuple[int, int], sigma_data: float
) -> None:
    power = mean_power(size, sigma_data)
    assert float(power.mean()) == pytest.approx((0.55 * sigma_data) ** 2, rel=1e-5)
    assert bool((power.diff(dim=0) < 0).all())
    assert bool((power.diff(dim=1) < 0).all())


def test_power_rolls_off_near_the_finest_frequency() -> None:
    power = mean_power((64, 64), 0.5)
    # From k = 30 to 62, the power law alone falls to one eighth.
    fall = math.exp(-4.0 * (62**2 - 30**2) / 64**2) / 8
    assert float(power[0, 62] / power[0, 30]) == pytest.approx(fall, rel=1e-5)


@pytest.mark.parametrize("side", [28, 64, 224, 512])
def test_the_brightness_of_scans_varies_as_that_of_radiographs(side: int) -> None:
    # Of real chests, the mean of a scan in [-1, 1] varies by .11 to .17 within a class. What a network has
    # not learned is drawn from the law: one that allowed .37 made images of any brightness.
    assert 0.11 <= float(mean_power((side, side), 0.5)[0, 0].sqrt() / side) <= 0.17


def test_a_changed_law_has_a_new_number_since_earlier_weights_do_not_fit_it() -> None:
    power = mean_power((8, 8), 0.5)
    assert (SPECTRAL_LAW, round(float(power[0, 0]), 3), round(float(power[7, 3]), 5)) == LAW


def test_a_direction_counts_as_the_other_however_long_the_sides_are() -> None:
    wide, high = mean_power((12, 20), 0.5), mean_power((20, 12), 0.5)
    torch.testing.assert_close(wide, high.T)
    # Half of the lines of a side of 12 and half of one of 20 are equally fine.
    torch.testing.assert_close(wide[6, 0], wide[0, 10])


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("sigma", [0.05, 0.5, 5.0])
def test_no_linear_filter_denoises_such_scans_better(size: tuple[int, int], sigma: float) -> None:
    skip, clean = SpectralSkip(size, 0.5), drawn(size, 6000, seed=3)
    seen, levels = noisy(clean, sigma, seed=4)
    error = float((skip(seen, torch.zeros_like(seen), levels) - clean).square().mean())
    least = float((skip.power * sigma**2 / (skip.power + sigma**2)).mean())
    assert error == pytest.approx(least, rel=0.05)
    c_skip, _, _, _ = edm(levels, 0.5)
    assert error < float((c_skip * seen - clean).square().mean())


@pytest.mark.parametrize("sigma", [0.05, 0.7, 20.0])
def test_the_networks_target_has_unit_variance_at_every_frequency(sigma: float) -> None:
    size = (16, 16)
    skip, clean = SpectralSkip(size, 0.5), drawn(size, 6000, seed=5)
    seen, levels = noisy(clean, sigma, seed=6)
    left = clean - skip(seen, torch.zeros_like(seen), levels)
    ones = torch.ones_like(seen)
    # What an output of one at each coefficient adds is the scale of the target.
    basis = cosine_basis(16)
    scale = basis @ (skip(seen, basis.T @ ones @ basis, levels) - skip(seen, 0.0 * ones, levels)) @ basis.T
    target = (basis @ left @ basis.T) / scale
    torch.testing.assert_close(target.square().mean(dim=(0, 1)), torch.ones(size), atol=0.12, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_the_loss_of_the_filter_alone_is_one_at_every_noise_level(size: tuple[int, int]) -> None:
    skip, clean = SpectralSkip(size, 0.5), drawn(size, 3000, seed=7)
    for sigma in (0.01, 0.2, 3.0, 100.0):
        sigmas = torch.full((len(clean),), sigma)
        losses = denoising_loss(
            lambda x, levels, codes, augment: skip(x, torch.zeros_like(x), levels.reshape(-1, 1, 1, 1)),
            clean,
            torch.zeros(len(clean), dtype=torch.int64),
            sigma=sigmas,
            noise=torch.randn(clean.shape, generator=torch.Generator().manual_seed(8)),
            weight=skip.loss_weight(sigmas),
        )
        assert float(losses.mean()) == pytest.approx(1.0, rel=0.06)


@given(sigma=st.floats(0.0, 1e4), seed=st.integers(0, 100))
def test_it_keeps_scans_without_noise_and_nothing_of_pure_noise(sigma: float, seed: int) -> None:
    skip = SpectralSkip((12, 20), 0.5)
    seen, output = torch.randn(2, 3, 1, 12, 20, generator=torch.Generator().manual_seed(seed))
    same = skip(seen, output, torch.zeros(3, 1, 1, 1))
    torch.testing.assert_close(same, seen, atol=1e-5, rtol=0)
    found = skip(seen, torch.zeros_like(seen), torch.full((3, 1, 1, 1), sigma))
    # A filter whose factors lie in [0, 1] makes nothing larger.
    assert float(found.square().sum()) <= float(seen.square().sum()) * (1 + 1e-5)


def test_a_new_denoiser_is_the_filter_and_stores_no_more_than_its_weights() -> None:
    spec = NetworkSpec(
        (12, 20), 2, channels=(8, 16), attention=(False, True), num_head_channels=8, num_norm_groups=8
    )
    denoiser, plain = Denoiser(spec, parametrisation="spectral"), Denoiser(spec)
    assert denoiser.state_dict().keys() == plain.state_dict().keys()
    seen, levels = noisy(drawn((12, 20), 4, seed=1), 0.3, seed=2)
    found = denoiser(seen, levels.flatten(), torch.zeros(4, dtype=torch.int64))
    torch.testing.assert_close(found, SpectralSkip((12, 20), 0.5)(seen, torch.zeros_like(seen), levels))
