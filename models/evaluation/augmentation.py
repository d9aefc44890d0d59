"""Augmentation of a classifier's training batches: none, light, or strong at a strength.

The transforms work on a whole batch in torch, because a step of the small classifier takes milliseconds and
a library's transforms of single images take as long for one image.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from models.devices import to_device
from models.diffusion.augment import affine_matrices, draw_augmentation

Kind = Literal["none", "light", "strong"]

LIGHT_SHIFT, LIGHT_BRIGHTNESS, LIGHT_CONTRAST = 0.08, 0.2, 0.2
"""Light augmentation: largest shift as a share of the side, largest change of brightness in units of the
range [-1, 1], and largest relative change of contrast."""

AFFINE_STDS = 2.0
"""Strong augmentation: standard deviations of rotation, scale, stretch and shift, in those of the generator's
augmentation (`models.diffusion.augment`): 8 degrees, 20 %, 10 % and 10 % of the side."""
ELASTIC_POINTS, ELASTIC_STD = 4, 0.04
"""Control points a side of the elastic field, and the standard deviation of their displacement as a share of
the side."""
LOG_GAMMA, NOISE_STD = 0.4, 0.1
"""Largest change of ln(gamma), and largest standard deviation of the noise, in units of the range [-1, 1]."""
OFTEN, SELDOM = 0.5, 0.25
"""Share of images with noise or blur, and share with an erased box; share of batches that are mixed is the
first."""
LARGEST_BOX = 0.4
"""Longest side of an erased box as a share of the image's."""
MIXING_ALPHA = 0.4
"""Parameter of the Beta distribution of MixUp (Zhang et al. 2018, arXiv 1710.09412) and of CutMix (Yun et al.
2019, arXiv 1905.04899)."""


@dataclass(frozen=True)
class Augmentation:
    """What is done to a training batch.

    Attributes:
        kind: `none`; `light`: shift, brightness and contrast; `strong`: affine and elastic deformation,
            gamma, contrast, brightness, noise, blur, an erased box, and MixUp or CutMix.
        strength: factor on the amounts of the strong augmentation, in (0, 2]; 1 are those of this module.
    """

    kind: Kind = "light"
    strength: float = 1.0

    def __post_init__(self) -> None:
        if self.kind not in ("none", "light", "strong"):
            raise ValueError(f"kind must be none, light or strong, got {self.kind!r}")
        if not 0.0 < self.strength <= 2.0:
            raise ValueError(f"strength must lie in (0, 2], got {self.strength!r}")

    @property
    def words(self) -> str:
        """The kind, with the strength of a strong one."""
        return f"strong {self.strength:g}" if self.kind == "strong" else self.kind

    def apply(self, images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Return an augmented batch and its targets.

        Args:
            images: (n, 1, H, W) in [-1, 1].
            targets: (n, K) float targets: class shares or findings; NaN is unknown.
            generator: CPU generator of all random choices.
        """
        if self.kind == "none":
            return images, targets
        if self.kind == "light":
            return light(images, generator), targets
        return mixed(strong(images, self.strength, generator), targets, generator)


LIGHT = Augmentation()


def light(images: Tensor, generator: torch.Generator) -> Tensor:
    """Shift images (n, 1, H, W) and change brightness and contrast, each by its own random amount."""
    n, _, height, width = images.shape
    device = images.device
    largest = round(LIGHT_SHIFT * min(height, width))
    if largest:
        rows, columns = to_device(torch.randint(0, 2 * largest + 1, (2, n, 1), generator=generator), device)
        padded = F.pad(images, (largest,) * 4, mode="replicate")[:, 0]
        y = (torch.arange(height, device=device) + rows)[:, :, None]
        x = (torch.arange(width, device=device) + columns)[:, None, :]
        images = padded[torch.arange(n, device=device)[:, None, None], y, x][:, None]
    change = to_device(torch.rand(2, n, 1, 1, 1, generator=generator).mul_(2.0).sub_(1.0), device)
    return images * (1.0 + LIGHT_CONTRAST * change[0]) + LIGHT_BRIGHTNESS * change[1]


def strong(images: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Deform images (n, 1, H, W) in [-1, 1] and change their intensities, each by its own random amounts."""
    n, _, height, width = images.shape
    device = images.device

    def uniform(*shape: int) -> Tensor:
        """Return numbers from -1 to 1, one or more an image."""
        return to_device(torch.rand(n, *shape, generator=generator) * 2.0 - 1.0, device)

    def some(share: float) -> Tensor:
        return to_device((torch.rand(n, 1, 1, 1, generator=generator) < share).float(), device)

    features = draw_augmentation(n, 1.0, generator) * (AFFINE_STDS * strength)
    matrices = to_device(affine_matrices(features, (height, width)), device)
    points = torch.randn(n, 2, ELASTIC_POINTS, ELASTIC_POINTS, generator=generator)
    bends = F.interpolate(to_device(points, device), (height, width), mode="bicubic", align_corners=True)
    grid = F.affine_grid(matrices[:, :2], [n, 1, height, width], align_corners=False)
    grid = grid + bends.permute(0, 2, 3, 1) * (2.0 * ELASTIC_STD * strength)
    images = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)

    gamma = torch.exp(uniform(1, 1, 1) * LOG_GAMMA * strength)
    images = ((images.clamp(-1.0, 1.0) + 1.0) / 2.0).pow(gamma) * 2.0 - 1.0
    images = images * (1.0 + LIGHT_CONTRAST * strength * uniform(1, 1, 1))
    images = images + LIGHT_BRIGHTNESS * strength * uniform(1, 1, 1)

    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    images = images.lerp(blurred, some(OFTEN) * uniform(1, 1, 1).abs() * min(strength, 1.0))
    noise = to_device(torch.randn(n, 1, height, width, generator=generator), device)
    images = images + noise * some(OFTEN) * uniform(1, 1, 1).abs() * NOISE_STD * strength
    return _erased(images, some(SELDOM), uniform(4), strength)


def _erased(images: Tensor, chosen: Tensor, drawn: Tensor, strength: float) -> Tensor:
    """Replace a box of the chosen images (n, 1, 1, 1), 1 for chosen, by the image's mean."""
    height, width = images.shape[-2:]
    centre, half = (drawn[:, :2] + 1.0) / 2.0, (drawn[:, 2:] + 1.0) / 4.0 * LARGEST_BOX * min(strength, 1.5)
    y = torch.arange(height, device=images.device).add(0.5) / height
    x = torch.arange(width, device=images.device).add(0.5) / width
    inside_y = ((y - centre[:, :1]).abs() < half[:, :1])[:, None, :, None]
    inside_x = ((x - centre[:, 1:]).abs() < half[:, 1:])[:, None, None, :]
    box = chosen * (inside_y & inside_x)
    return torch.lerp(images, images.mean(dim=(2, 3), keepdim=True), box)


def mixed(images: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mix the images of half of the batches in pairs, by MixUp or CutMix, and their targets in proportion.

    MONAI's transforms of these names are for segmentation: MixUp refuses targets of two dimensions, and
    CutMix takes the other image's target whole.

    Args:
        images: (n, 1, H, W).
        targets: (n, K) float; NaN in either target of a pair gives NaN.
        generator: CPU generator.
    """
    n, _, height, width = images.shape
    choice = float(torch.rand(1, generator=generator))
    # The share is Beta(a, a) = G / (G + G') with two Gamma(a) numbers.
    parts = torch._standard_gamma(torch.full((2,), MIXING_ALPHA), generator=generator).clamp_min(1e-6)
    order = torch.randperm(n, generator=generator)
    corner = torch.rand(2, generator=generator).tolist()
    if choice >= OFTEN:
        return images, targets
    share, other = float(parts[0] / parts.sum()), to_device(order, images.device)
    if choice < OFTEN / 2:
        images = images * share + images[other] * (1.0 - share)
    else:
        size = [round(side * (1.0 - share) ** 0.5) for side in (height, width)]
        top, left = (
            round(at * (side - own)) for at, side, own in zip(corner, (height, width), size, strict=True)
        )
        rows, columns = slice(top, top + size[0]), slice(left, left + size[1])
        pasted = images[other][:, :, rows, columns]
        images = images.clone()
        images[:, :, rows, columns] = pasted
        share = 1.0 - size[0] * size[1] / (height * width)
    return images, targets * share + targets[other] * (1.0 - share)
