"""Alterations of images in [-1, 1], each image with a random strength of its own.

Each function takes (n, 1, h, w) images, as many other images, and a random generator on the CPU, and returns
the altered images (n, 1, h, w), which may leave [-1, 1].
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.privacy.gate.planted_copies import compressed


def integer(low: int, high: int, generator: torch.Generator) -> int:
    """Return a random whole number of low to high, both included."""
    return int(torch.randint(low, high + 1, (1,), generator=generator))


def _amount(images: Tensor, generator: torch.Generator, low: float, high: float) -> Tensor:
    """Return a strength (n, 1, 1, 1) for each image."""
    return low + (high - low) * torch.rand(len(images), 1, 1, 1, generator=generator)


def _either_sign(images: Tensor, generator: torch.Generator) -> Tensor:
    return torch.where(torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5, -1.0, 1.0)


def _places(images: Tensor) -> tuple[Tensor, Tensor]:
    """Return row and column of each pixel, (1, 1, h, 1) and (1, 1, 1, w), in [-1, 1]."""
    height, width = images.shape[-2:]
    down = (torch.arange(height) + 0.5) * (2 / height) - 1
    return down[None, None, :, None], ((torch.arange(width) + 0.5) * (2 / width) - 1)[None, None, None]


# Geometry.


def _mapped(images: Tensor, matrix: Tensor, shift: Tensor | None = None) -> Tensor:
    """Sample images at matrix (n, 2, 2) times place plus shift (n, 2), places in [-1, 1]; edges repeated."""
    moved = torch.zeros(len(images), 2) if shift is None else shift
    grid = F.affine_grid(torch.cat([matrix, moved[:, :, None]], dim=2), list(images.shape), False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def _matrix(a: Tensor, b: Tensor, c: Tensor, d: Tensor) -> Tensor:
    rows = [torch.stack([one.flatten(), other.flatten()], dim=1) for one, other in ((a, b), (c, d))]
    return torch.stack(rows, dim=1)


def mirrored(images: Tensor, _: Tensor, __: torch.Generator) -> Tensor:
    return images.flip(-1)


def upside_down(images: Tensor, _: Tensor, __: torch.Generator) -> Tensor:
    return images.flip(-2)


def rotated(images: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    angle = _amount(images, generator, -math.pi, math.pi)
    return _mapped(images, _matrix(angle.cos(), -angle.sin(), angle.sin(), angle.cos()))


def stretched(images: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    zero = torch.zeros(len(images), 1, 1, 1)
    across, down = (_amount(images, generator, -0.3, 0.3).exp() for _ in range(2))
    return _mapped(images, _matrix(across, zero, zero, down))


def cropped(images: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    share = _amount(images, generator, 0.6, 0.95)
    zero, room = torch.zeros_like(share), (1 - share).flatten()[:, None]
    place = room * (2 * torch.rand(len(images), 2, generator=generator) - 1)
    return _mapped(images, _matrix(share, zero, zero, share), place)


def shifted(images: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    one, zero = torch.ones(len(images), 1, 1, 1), torch.zeros(len(images), 1, 1, 1)
    place = 0.3 * (2 * torch.rand(len(images), 2, generator=generator) - 1)
    return _mapped(images, _matrix(one, zero, zero, one), place)


def sheared(images: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    one, zero = torch.ones(len(images), 1, 1, 1), torch.zeros(len(images), 1, 1, 1)
    amount = _either_sign(images, generator) * _amount(images, generator, 0.1, 0.3)
    return _mapped(images, _matrix(one, amount, zero, one))


def deformed(images: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    """Move each place smoothly by up to a tenth of the side."""
    coarse = torch.randn(len(images), 2, 4, 4, generator=generator)
    moved = F.interpolate(coarse, size=images.shape[-2:], mode="bicubic", align_corners=False)
    length = moved.norm(dim=1).amax(dim=(1, 2))[:, None, None, None]
    moved = moved / length * 2 * _amount(images, generator, 0.04, 0.11)
    one = torch.eye(2, 3).expand(len(images), -1, -1)
    grid = F.affine_grid(one, list(images.shape), False) + moved.permute(0, 2, 3, 1)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def in_perspective(images: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    """Look at images at a slant: one side grows, the other shrinks."""
    grid = F.affine_grid(torch.eye(2, 3).expand(len(images), -1, -1), list(images.shape), False)
    tilt = 0.35 * (2 * torch.rand(len(images), 1, 1, 2, generator=generator) - 1)
    return F.grid_sample(
        images,
        grid / (1 + (grid * tilt).sum(dim=-1, keepdim=True)),
        padding_mode="border",
        align_corners=False,
    )


# Grey values.


def gamma(images: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    power = _either_sign(images, generator) * _amount(images, generator, 0.2, 0.7)
    return ((images + 1) / 2) ** power.exp() * 2 - 1


def window(images: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    width, level = _amount(images, generator, 0.5, 1.3), _amount(images, generator, -0.3, 0.3)
    return (images - level) / width


def negative(images: Tensor, _: Tensor, __: torch.Generator) -> Tensor:
    return -images


def gradient(images: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    """Add a plane: an exposure that falls to one side."""
    down, across = _places(images)
    angle, amount = _amount(images, generator, 0, 2 * math.pi), _amount(images, generator, 0.2, 0.6)
    return images + amount * (angle.sin() * down + angle.cos() * across)


def s_curve(images: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    steep, middle = _amount(images, generator, 1.5, 4.0), _amount(images, generator, -0.3, 0.3)
    return torch.tanh(steep * (images - middle))


def any_curve(images: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    """Map grey values by a random rising curve through six places."""
    steps = torch.rand(len(images), 5, generator=generator) + 0.1
    rises = F.pad((steps / steps.sum(dim=1, keepdim=True)).cumsum(dim=1), (1, 0)) * 2 - 1
    place = (images + 1) / 2 * 5
    below = place.floor().clamp(0, 4).long()
    flat = below.flatten(1)
    low, high = (rises.gather(1, each).view_as(images) for each in (flat, flat + 1))
    return low + (high - low) * (place - below)


def posterised(images: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    levels = torch.randint(3, 9, (len(images), 1, 1, 1), generator=generator) - 1
    return ((images + 1) / 2 * levels).round() / levels * 2 - 1


def local_contrast(images: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    """Scale each neighbourhood of an eighth of the side towards the same mean and spread."""
    size = max(3, images.shape[-1] // 8 * 2 + 1)

    def around(values: Tensor) -> Tensor:
        return F.avg_pool2d(F.pad(values, (size // 2,) * 4, mode="replicate"), size, stride=1)

    mean = around(images)
    spread = (around(images.square()) - mean.square()).clamp_min(0).sqrt()
    share = _amount(images, generator, 0.4, 1.0)
    return (1 - share) * images + share * 0.4 * (images - mean) / (spread + 0.05)


def vignetted(images: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    down, across = _places(images)
    amount = _either_sign(images, generator) * _amount(images, generator, 0.3, 0.9)
    return images + amount * ((down.square() + across.square()) / 2 - 1 / 3)


# Occlusion.


def _region(images: Tensor, generator: torch.Generator, low: float, high: float, *, power: float) -> Tensor:
    """Return how far each pixel lies outside a random region (n, 1, h, w): below 1 is inside.

    Args:
        images: (n, 1, h, w).
        generator: random generator.
        low: smallest share of the area; high: largest one.
        power: exponent of the norm, large for rectangles, 2 for ellipses.
    """
    down, across = _places(images)
    full = 4.0 if power > 2 else math.pi
    side = (_amount(images, generator, low, high) * 4 / full).sqrt()
    longer = _amount(images, generator, -0.25, 0.25).exp()
    high_half, wide_half = (side * longer).clamp_max(1.0), (side / longer).clamp_max(1.0)
    at_row, at_column = (
        (1 - half) * (2 * torch.rand(len(images), 1, 1, 1, generator=generator) - 1)
        for half in (high_half, wide_half)
    )
    far_down, far_across = ((down - at_row) / high_half).abs(), ((across - at_column) / wide_half).abs()
    if power > 2:
        return torch.maximum(far_down, far_across)
    return (far_down.square() + far_across.square()).sqrt()


def erased(images: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    value = _amount(images, generator, -1, 1)
    return torch.where(_region(images, generator, 0.1, 0.3, power=9) < 1, value, images)


def pasted(images: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    return torch.where(_region(images, generator, 0.1, 0.3, power=9) < 1, others, images)


def pasted_softly(images: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    share = ((1.2 - _region(images, generator, 0.1, 0.3, power=2)) / 0.4).clamp(0, 1)
    return (1 - share) * images + share * others


def noise_patch(images: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    noise = torch.randn(images.shape, generator=generator) * 0.5
    return torch.where(_region(images, generator, 0.1, 0.25, power=2) < 1, noise, images)


def marked(images: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    """Lay white letters of random strokes over a corner, as a burned-in marker."""
    height, width = images.shape[-2:]
    tall, wide = max(3, height // 5), max(6, width // 3)
    coarse = (torch.rand(len(images), 1, 5, 9, generator=generator) < 0.5).float()
    strokes = F.interpolate(coarse, size=(tall, wide), mode="nearest")
    out = images.clone()
    for row in range(len(images)):
        top = integer(0, 1, generator) * (height - tall)
        left = integer(0, 1, generator) * (width - wide)
        part = out[row, :, top : top + tall, left : left + wide]
        part[strokes[row] > 0] = 1.0
    return out


def framed(images: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    """Blacken a border of up to an eighth of the side."""
    down, across = _places(images)
    inner = 1 - 2 * _amount(images, generator, 0.03, 0.125)
    return torch.where(torch.maximum(down.abs(), across.abs()) > inner, -1.0, images)


# Mixtures.


def halved(images: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    down, across = _places(images)
    by_rows = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
    return torch.where(
        torch.where(by_rows, down, across) * _either_sign(images, generator) > 0, others, images
    )


def blended(images: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    return torch.lerp(images, others, _amount(images, generator, 0.2, 0.5))


def blended_of_three(images: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    share = _amount(images, generator, 0.4, 0.6)
    return share * images + (1 - share) / 2 * (others + others.roll(1, dims=0))


def quartered(images: Tensor, others: Tensor, generator: torch.Generator) -> Tensor:
    """Put two opposite or neighbouring quarters of other images in."""
    height, width = images.shape[-2:]
    out = images.clone()
    for row in range(len(images)):
        for number, quarter in enumerate(torch.randperm(4, generator=generator)[:2].tolist()):
            rows = slice(0, height // 2) if quarter < 2 else slice(height // 2, height)
            columns = slice(0, width // 2) if quarter % 2 == 0 else slice(width // 2, width)
            out[row, :, rows, columns] = others[(row + number) % len(others), :, rows, columns]
    return out


# Resolution.


def noisy(images: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    amount = 2 * _amount(images, generator, 0.02, 0.15)
    return images + amount * torch.randn(images.shape, generator=generator)


def blurred(images: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    size = 3 if images.shape[-1] < 48 else 5
    soft = images
    for _pass in range(2):
        soft = F.avg_pool2d(F.pad(soft, (size // 2,) * 4, mode="replicate"), size, stride=1)
    return torch.lerp(images, soft, _amount(images, generator, 0.4, 1.0))


def jpeg(images: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    return compressed(images, [integer(15, 60, generator) for _image in images])


def speckled(images: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    factor = 1 + _amount(images, generator, 0.05, 0.25) * torch.randn(images.shape, generator=generator)
    return (images + 1) * factor - 1


def coarse(images: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    """Halve the resolution, enlarge again, and sharpen."""
    size: Any = images.shape[-2:]
    small = F.interpolate(images, scale_factor=0.5, mode="bilinear", antialias=True, align_corners=False)
    large = F.interpolate(small, size=size, mode="bicubic", align_corners=False)
    soft = F.avg_pool2d(F.pad(large, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return large + _amount(images, generator, 0.0, 1.5) * (large - soft)


def salted(images: Tensor, _: Tensor, generator: torch.Generator) -> Tensor:
    """Make single pixels black or white."""
    hit = torch.rand(images.shape, generator=generator) < _amount(images, generator, 0.01, 0.06)
    value = torch.where(torch.rand(images.shape, generator=generator) < 0.5, -1.0, 1.0)
    return torch.where(hit, value, images)
