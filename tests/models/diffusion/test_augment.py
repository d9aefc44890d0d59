"""Augmentations are told in full by their features: nothing told, nothing done; told, it can be undone."""

from __future__ import annotations

import pytest
import torch

from models.diffusion.augment import NUM_FEATURES, affine_matrices, augment, draw_augmentation, warp


def smooth(count: int, height: int = 48, width: int = 48) -> torch.Tensor:
    """Return smooth images (count, 1, height, width) in [-1, 1]."""
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, 1, 6, 6, generator=generator) * 1.6 - 0.8
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(-1, 1)


def draw(count: int, probability: float, seed: int = 0) -> torch.Tensor:
    return draw_augmentation(count, probability, torch.Generator().manual_seed(seed))


def test_features_are_zero_where_nothing_was_applied_and_such_scans_keep_every_bit() -> None:
    features = draw(400, 0.1)
    untouched = (features == 0).all(dim=1)
    assert 0.45 < float(untouched.float().mean()) < 0.75  # 0.9^4: four kinds
    images = smooth(400, 16, 16)
    moved = augment(images, features)
    assert torch.equal(moved[untouched], images[untouched])
    assert bool((moved[~untouched] != images[~untouched]).flatten(1).any(dim=1).all())
    assert float(moved.abs().max()) <= 1.0


@pytest.mark.parametrize("probability", [0.0, 0.15, 1.0])
def test_each_kind_is_applied_as_often_as_asked(probability: float) -> None:
    features = draw(4000, probability)
    assert features.shape == (4000, NUM_FEATURES)
    share = (features[:, 1:] != 0).float().mean(dim=0)
    torch.testing.assert_close(share, torch.full_like(share, probability), atol=0.03, rtol=0)
    assert not features[:, 0].any()


@pytest.mark.parametrize("size", [(48, 48), (40, 56)])
def test_an_augmentation_is_undone_by_its_inverse(size: tuple[int, int]) -> None:
    images = smooth(12, *size)
    matrices = affine_matrices(draw(12, 1.0), size)
    back = warp(warp(images, matrices), torch.linalg.inv(matrices))
    # Away from the border, which an augmentation may push out of the image.
    inner = (slice(None), slice(None), slice(16, -16), slice(16, -16))
    assert float((back - images)[inner].abs().max()) < 0.03
    assert float((warp(images, matrices) - images)[inner].abs().mean()) > 0.05


def test_a_shift_of_whole_pixels_moves_them_and_repeats_the_border() -> None:
    images = smooth(1, 40, 40)
    features = torch.zeros(1, NUM_FEATURES)
    features[:, 6] = 1.0  # one standard deviation: 5 % of 40 pixels, to the right
    moved = augment(images, features)
    torch.testing.assert_close(moved[..., 2:], images[..., :-2], atol=1e-4, rtol=0)
    torch.testing.assert_close(moved[..., 0], images[..., 0], atol=1e-4, rtol=0)


def test_a_rotation_keeps_a_round_spot_round_in_an_oblong_image() -> None:
    height, width = 40, 64
    y, x = torch.meshgrid(torch.arange(height) - 19.5, torch.arange(width) - 31.5, indexing="ij")
    disc = (1.6 * torch.exp(-(y**2 + x**2) / 128.0) - 0.8)[None, None]
    features = torch.zeros(1, NUM_FEATURES)
    features[:, 1] = 3.0  # 12 degrees; a rotation that forgot the image's shape would miss by 0.12
    assert float((augment(disc, features) - disc).abs().max()) < 0.04


def test_the_draw_depends_on_its_seed_alone() -> None:
    assert torch.equal(draw(8, 0.5, seed=3), draw(8, 0.5, seed=3))
    assert not torch.equal(draw(8, 0.5, seed=3), draw(8, 0.5, seed=4))
    images, features = smooth(8), draw(8, 0.5, seed=3)
    torch.testing.assert_close(augment(images, features)[2:5], augment(images[2:5], features[2:5]))


def test_a_wrong_probability_is_named() -> None:
    with pytest.raises(ValueError, match="probability"):
        draw(1, 1.5)
