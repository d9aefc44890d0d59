"""Aligned correlation sees through gain, offset, mirror, shift and zoom, and treats all references alike."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from models.privacy.matching import (
    Alignments,
    aligned_similarity,
    centre,
    coarse_similarity,
    flat_field,
    low_frequencies,
    noise_gain,
    noise_variance,
    unit_rows,
    warp,
)


def smooth(count: int, size: int = 28, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    small = torch.randn(count, 1, 9, 9, generator=generator)
    return torch.nn.functional.interpolate(small, size=(size, size), mode="bicubic", align_corners=False)


def best(queries: torch.Tensor, references: torch.Tensor, alignments: Alignments) -> torch.Tensor:
    pairs = torch.arange(len(references)).expand(len(queries), -1)
    return aligned_similarity(queries, references, pairs, alignments)


@settings(max_examples=25)
@given(gain=st.floats(0.1, 10), offset=st.floats(-5, 5), seed=st.integers(0, 1000))
def test_similarity_ignores_gain_and_offset(gain: float, offset: float, seed: int) -> None:
    images = smooth(3, seed=seed)
    changed = gain * images + offset
    assert torch.allclose(best(changed, images, Alignments()), best(images, images, Alignments()), atol=2e-3)


@pytest.mark.parametrize("dy", [-2, 0, 1, 2])
@pytest.mark.parametrize("dx", [-2, -1, 0, 2])
def test_whole_shifts_within_reach_are_found_exactly(dy: int, dx: int) -> None:
    images = smooth(4, size=36)
    reference, moved = images[..., 4:32, 4:32], images[..., 4 + dy : 32 + dy, 4 + dx : 32 + dx]
    found = best(moved, reference, Alignments(scales=(1.0,)))
    assert found.diagonal().min() > 0.999
    others = found - 2 * torch.eye(4)
    assert others.max() < 0.99


def test_a_mirrored_and_zoomed_copy_is_found_and_a_stranger_is_not() -> None:
    images = smooth(20)
    copy = warp(images, flip=True, scale=1 / 1.05, rotation=0.0)
    found = best(copy, images, Alignments())
    assert (found.argmax(dim=1) == torch.arange(20)).all()
    assert found.diagonal().min() > 0.97
    without = best(copy, images, Alignments(scales=(1.0,), flip=False))
    assert (without.diagonal() < found.diagonal()).all()


def test_similarity_stays_in_range_and_constant_images_match_nothing() -> None:
    images = torch.cat([smooth(3), torch.zeros(1, 1, 28, 28)])
    found = best(images, images, Alignments())
    assert found.min() >= -1 and found.max() <= 1
    assert found[3].abs().max() < 1e-3


def test_coarse_search_shortlists_the_source_whatever_the_order_of_references() -> None:
    references = smooth(300)
    queries = warp(references[:40], flip=True, scale=1.05, rotation=3.0)
    scores = torch.cat([part for _, part in coarse_similarity(queries, references, Alignments(), block=16)])
    assert scores.shape == (40, 300)
    top = scores.topk(4, dim=1).indices
    assert (top == torch.arange(40)[:, None]).any(dim=1).float().mean() >= 0.95
    order = torch.randperm(300, generator=torch.Generator().manual_seed(1))
    shuffled = torch.cat([part for _, part in coarse_similarity(queries, references[order], Alignments())])
    assert torch.allclose(shuffled, scores[:, order], atol=1e-5)


def test_block_size_does_not_change_the_similarity() -> None:
    images = smooth(10)
    pairs = torch.randint(0, 10, (10, 3), generator=torch.Generator().manual_seed(0))
    small = aligned_similarity(images, images, pairs, Alignments(), block=3)
    assert torch.allclose(small, aligned_similarity(images, images, pairs, Alignments(), block=64), atol=1e-6)


def test_flat_fielding_removes_a_constant_and_a_slow_ramp_mostly() -> None:
    ramp = torch.linspace(-1, 1, 64).expand(1, 1, 64, 64)
    left = flat_field(ramp, sigma=4.0)
    assert left[..., 16:-16].abs().max() < 1e-3
    assert flat_field(torch.ones(1, 1, 28, 28), sigma=4.0).abs().max() < 1e-5


def test_noise_and_resampling_cost_little_similarity() -> None:
    sharp = torch.where(smooth(10, size=32) > 0, 1.0, -1.0)
    noise = 0.1 * torch.randn(sharp.shape, generator=torch.Generator().manual_seed(0))
    assert best(sharp + noise, sharp, Alignments()).diagonal().min() > 0.99
    assert (
        best(warp(sharp, flip=False, scale=1.05, rotation=0.0), sharp, Alignments()).diagonal().min() > 0.97
    )


def test_low_frequencies_are_orthonormal_and_hold_the_constant_and_a_ramp_mostly() -> None:
    basis = low_frequencies(26, 22, 4.0)
    assert torch.allclose(basis.T @ basis, torch.eye(basis.shape[1]), atol=1e-5)
    ramp = torch.linspace(-1, 1, 22).expand(26, 22).flatten()
    left = ramp - basis @ (basis.T @ ramp)
    assert left.norm() < 0.2 * ramp.norm()


def test_unit_rows_have_zero_mean_and_unit_length() -> None:
    rows = unit_rows(smooth(5), 4.0)
    assert torch.allclose(rows.mean(dim=1), torch.zeros(5), atol=1e-6)
    assert torch.allclose(rows.norm(dim=1), torch.ones(5), atol=1e-5)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Alignments(max_shift=-1), "max_shift"),
        (lambda: Alignments(scales=(0.0,)), "scales"),
        (lambda: Alignments(rotations=()), "rotations"),
        (lambda: flat_field(torch.zeros(1, 1, 8, 8), sigma=0.0), "sigma"),
        (lambda: centre(torch.zeros(1, 1, 8, 8), 4), "margin"),
    ],
)
def test_wrong_arguments_are_named(make, named: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=named):
        make()


def textured(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn((count, 1, 32, 32), generator=generator)
    padded = torch.nn.functional.pad(noise, (4,) * 4, mode="replicate")
    return (2.0 * torch.nn.functional.avg_pool2d(padded, 5, stride=1)[..., 2:-2, 2:-2]).clamp(-1, 1)


def test_white_noise_is_measured_and_ramps_are_not() -> None:
    noise = 0.3 * torch.randn((200, 1, 32, 32), generator=torch.Generator().manual_seed(0))
    assert float(noise_variance(noise).mean()) == pytest.approx(0.09, rel=0.03)
    ramp = torch.linspace(-1, 1, 32).expand(1, 1, 32, 32) + torch.linspace(-1, 1, 32)[:, None]
    assert float(noise_variance(ramp)) == pytest.approx(0.0, abs=1e-9)


def test_undoing_the_noise_brings_a_noisy_copy_as_near_as_a_clean_one_and_strangers_hardly() -> None:
    images, alignments = textured(60, 1), Alignments(1, (1.0,), (0.0,))
    texture = float(noise_variance(images).quantile(0.75))
    noisy = images + 0.4 * torch.randn(images.shape, generator=torch.Generator().manual_seed(2))
    pairs = torch.stack([torch.arange(60), (torch.arange(60) + 7) % 60], dim=1)
    similarity = aligned_similarity(noisy, images, pairs, alignments)
    gain = noise_gain(noisy, texture, alignments)
    undone = similarity * gain[:, None]
    assert float(similarity[:, 0].mean()) < 0.93
    assert float(undone[:, 0].mean()) == pytest.approx(1.0, abs=0.03)
    assert float(undone[:, 1].max()) < 0.75


def test_images_of_the_ordinary_kind_are_left_as_they_are() -> None:
    images, alignments = textured(60, 3), Alignments(1, (1.0,), (0.0,))
    texture = float(noise_variance(images).quantile(0.75))
    gain = noise_gain(images, texture, alignments)
    assert float((gain == 1.0).float().mean()) >= 0.7
    assert float(gain.max()) < 1.1


@pytest.mark.parametrize("shift", range(-3, 4))
def test_the_coarse_search_finds_the_source_at_every_shift_within_reach(shift: int) -> None:
    images = textured(40, 4)
    moved = torch.roll(images, (shift, -shift), dims=(-2, -1))
    found = torch.cat([best for _, best in coarse_similarity(moved, images, Alignments(3, (1.0,), (0.0,)))])
    assert (found.topk(4, dim=1).indices == torch.arange(40)[:, None]).any(dim=1).all()
