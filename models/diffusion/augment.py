"""Geometric augmentation that the network is conditioned on, so that it does not leak into the samples."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from models.devices import choices

NUM_FEATURES = 7
"""Unused, rotation, scale, anisotropic scale (two numbers), shift down, shift right; 0 is not applied.

The first number is always 0 and is kept because existing networks have been trained with 7 numbers. It was
used for mirroring, which puts the heart on the wrong side of the chest.
"""

ROTATION_STD = 0.07
"""Standard deviation of the rotation in radians: 4 degrees, as patients lean and cassettes tilt."""
LOG_SCALE_STD = 0.10
LOG_STRETCH_STD = 0.05
SHIFT_STD = 0.05
"""Standard deviation of a shift as a share of the image's side."""

_LIMIT = 3.0


def draw_augmentation(count: int, probability: float, generator: torch.Generator) -> Tensor:
    """Draw the augmentations of each scan of a batch.

    Each kind is applied independently with the given probability. This increases the diversity of scarce
    data. The network gets the features as a condition, and samples drawn with features of zero are not
    augmented (Karras et al. 2022, arXiv 2206.00364, appendix F.2; the principle is that of Karras et al.
    2020, arXiv 2006.06676).

    Args:
        count: number of scans.
        probability: probability of each kind, in [0, 1].
        generator: random generator of all choices; they depend on ``count`` alone.

    Returns:
        Features (count, 7), fp32, on the generator's device: each number in standard deviations of its kind,
        and exactly 0 where the kind is not applied.

    Raises:
        ValueError: ``probability`` lies outside [0, 1].
    """
    if not 0.0 <= probability <= 1.0:
        raise ValueError(f"probability must lie in [0, 1], got {probability!r}")
    device = generator.device
    applied = torch.rand(count, 5, generator=generator, device=device) < probability
    drawn = torch.randn(count, NUM_FEATURES, generator=generator, device=device).clamp(-_LIMIT, _LIMIT)
    drawn[:, 0] = 0.0
    # The two numbers of the stretch belong together, and so do those of the shift.
    single, stretch, shift = applied[:, :3], applied[:, 3:4], applied[:, 4:]
    return drawn * torch.cat([single, stretch.expand(-1, 2), shift.expand(-1, 2)], dim=1)


def affine_matrices(features: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Return the matrices (N, 3, 3), fp32, that map pixels of the augmented scans to source positions.

    The matrices act on (x, y, 1), with x and y from -1 to 1 over the image's width and height.

    Args:
        features: (N, 7) from ``draw_augmentation``.
        image_size: (height, width); rotations are corrected for the aspect ratio.
    """
    wide = features.to(choices(features.device).wide)
    _, angle, scale, stretch_x, stretch_y, down, right = wide.unbind(dim=1)
    one, zero = torch.ones_like(angle), torch.zeros_like(angle)

    def matrix(*entries: Tensor) -> Tensor:
        return torch.stack(entries, dim=1).reshape(-1, 3, 3)

    height, width = image_size
    cos, sin = (angle * ROTATION_STD).cos(), (angle * ROTATION_STD).sin()
    rotated = matrix(cos, -sin * height / width, zero, sin * width / height, cos, zero, zero, zero, one)
    # A stretch by exp(a) along one axis and exp(-a) across it; the two numbers determine the axis.
    amount = torch.hypot(stretch_x, stretch_y).clamp_min(1e-12)
    along, across = stretch_x / amount, stretch_y / amount
    size = amount * LOG_STRETCH_STD
    grown, turned = size.cosh(), size.sinh()
    stretched = matrix(
        grown + turned * along,
        turned * across * height / width,
        zero,
        turned * across * width / height,
        grown - turned * along,
        zero,
        zero,
        zero,
        one,
    )
    factor = (-scale * LOG_SCALE_STD).exp()
    scaled = matrix(factor, zero, zero, zero, factor, zero, zero, zero, one)
    shift = 2.0 * SHIFT_STD
    shifted = matrix(one, zero, -right * shift, zero, one, -down * shift, zero, zero, one)
    return (rotated @ stretched @ scaled @ shifted).float()


def augment(images: Tensor, features: Tensor) -> Tensor:
    """Apply augmentations in one resampling; border pixels are replicated.

    Args:
        images: scans (N, C, H, W) in [-1, 1].
        features: (N, 7) from ``draw_augmentation``, on the same device.

    Returns:
        Scans (N, C, H, W) in [-1, 1]; scans whose features are all zero are unchanged bit for bit.
    """
    height, width = images.shape[-2:]
    moved = warp(images, affine_matrices(features, (height, width)))
    untouched = (features == 0.0).all(dim=1)
    return torch.where(untouched[:, None, None, None], images, moved)


def warp(images: Tensor, matrices: Tensor) -> Tensor:
    """Resample scans (N, C, H, W) at the positions of ``affine_matrices``, bicubic, clipped to [-1, 1]."""
    grid = functional.affine_grid(matrices[:, :2], list(images.shape), align_corners=False)
    taken = functional.grid_sample(
        images, grid.to(images.dtype), mode="bicubic", padding_mode="border", align_corners=False
    )
    return taken.clamp(-1.0, 1.0)
