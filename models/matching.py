"""Aligned zero-mean normalised cross-correlation: how alike two images are after the best small alignment."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

Tensor = torch.Tensor


@dataclass(frozen=True)
class Alignments:
    """Which alignments of a query are tried; every one is tried against every reference alike.

    Attributes:
        max_shift: shifts of up to this many pixels in each direction, one pixel apart.
        scales: zoom factors about the centre.
        rotations: degrees about the centre.
        flip: whether the mirror image is tried too.
    """

    max_shift: int = 2
    scales: tuple[float, ...] = (0.95, 1.0, 1.05)
    rotations: tuple[float, ...] = (0.0,)
    flip: bool = True

    def __post_init__(self) -> None:
        if self.max_shift < 0:
            raise ValueError(f"max_shift must be at least 0, got {self.max_shift}")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales must be positive and not empty, got {self.scales}")
        if not self.rotations:
            raise ValueError("rotations must not be empty")

    def warps(self) -> list[tuple[bool, float, float]]:
        """Return every (flip, scale, rotation in degrees); shifts come on top of each."""
        flips = (False, True) if self.flip else (False,)
        return [(f, s, r) for f in flips for s in self.scales for r in self.rotations]


def flat_field(images: Tensor, *, sigma: float) -> Tensor:
    """Subtract the low frequencies (a Gaussian blur of `sigma` pixels, edges mirrored).

    Radiographs of one view share their large-scale brightness, so plain correlation calls all of them alike.

    Args:
        images: (N, 1, H, W) float.
        sigma: standard deviation of the removed blur in pixels.

    Returns:
        (N, 1, H, W), the same dtype.
    """
    if sigma <= 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    rows = _blur_matrix(images.shape[-2], sigma).to(images)
    columns = _blur_matrix(images.shape[-1], sigma).to(images)
    return images - rows @ images @ columns.T


@functools.cache
def _blur_matrix(size: int, sigma: float) -> Tensor:
    """Return the (size, size) matrix of a Gaussian blur with mirrored edges: faster than a kernel."""
    radius = min(math.ceil(3 * sigma), size - 1)
    taps = torch.arange(-radius, radius + 1, dtype=torch.float64)
    kernel = torch.exp(-0.5 * (taps / sigma) ** 2)
    kernel = kernel / kernel.sum()
    matrix = torch.zeros(size, size, dtype=torch.float64)
    for offset, weight in zip(range(-radius, radius + 1), kernel, strict=True):
        source = torch.arange(size) + offset
        source = torch.where(source < 0, -source, source)
        source = torch.where(source >= size, 2 * (size - 1) - source, source)
        matrix[torch.arange(size), source] += weight
    return matrix


def unit_rows(images: Tensor) -> Tensor:
    """Flatten to (N, d) rows of zero mean and unit length; a constant image becomes a zero row."""
    rows = images.flatten(1)
    rows = rows - rows.mean(dim=1, keepdim=True)
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-6)


def warp(images: Tensor, *, flip: bool, scale: float, rotation: float) -> Tensor:
    """Mirror, zoom by `scale` and rotate by `rotation` degrees about the centre (bilinear, edge repeated)."""
    if flip:
        images = images.flip(-1)
    if scale == 1.0 and rotation == 0.0:
        return images
    angle = math.radians(rotation)
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    theta = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]], dtype=images.dtype)
    grid = F.affine_grid(theta.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def centre(images: Tensor, margin: int) -> Tensor:
    """Cut `margin` pixels off each side, so that a shifted copy is compared on what both images show."""
    if 2 * margin >= min(images.shape[-2:]):
        raise ValueError(f"margin must be below half the image size, got {margin}")
    return images if margin == 0 else images[..., margin:-margin, margin:-margin]


def coarse_similarity(
    queries: Tensor, references: Tensor, alignments: Alignments, *, block: int = 512
) -> Iterator[tuple[int, Tensor]]:
    """Yield the best coarse similarity of each query with each reference, a block of queries at a time.

    Works at half resolution and tries shifts two pixels apart: cheap enough for all pairs, used to pick
    the few pairs that `aligned_similarity` looks at closely. Memory is `block` x references.

    Args:
        queries: (N, 1, H, W) flat-fielded.
        references: (M, 1, H, W) flat-fielded.
        alignments: what is tried.
        block: queries at a time.

    Yields:
        (first query row, (n, M) similarity in [-1, 1]).
    """
    margin = alignments.max_shift
    reference_rows = unit_rows(F.avg_pool2d(centre(references, margin), 2)).T.contiguous()
    steps = sorted({-margin, 0, margin})
    for first in range(0, len(queries), block):
        part = queries[first : first + block]
        best: Tensor | None = None
        for flip, scale, rotation in alignments.warps():
            warped = warp(part, flip=flip, scale=scale, rotation=rotation)
            for dy in steps:
                for dx in steps:
                    moved = _window(warped, margin, dy, dx)
                    score = unit_rows(F.avg_pool2d(moved, 2)) @ reference_rows
                    best = score if best is None else torch.maximum(best, score, out=best)
        assert best is not None  # warps() is never empty
        yield first, best


def aligned_similarity(
    queries: Tensor, references: Tensor, pairs: Tensor, alignments: Alignments, *, block: int = 64
) -> Tensor:
    """Return the best zero-mean normalised cross-correlation of each query with its listed references.

    Args:
        queries: (N, 1, H, W) flat-fielded.
        references: (M, 1, H, W) flat-fielded.
        pairs: (N, k) reference rows to compare each query with.
        alignments: every warp and every whole-pixel shift that is tried.
        block: queries at a time; memory is about block x warps x shifts x H x W floats.

    Returns:
        (N, k) similarity in [-1, 1].
    """
    margin = alignments.max_shift
    rows = unit_rows(centre(references, margin))
    window = (queries.shape[-2] - 2 * margin, queries.shape[-1] - 2 * margin)
    out = torch.empty(pairs.shape, dtype=queries.dtype)
    for first in range(0, len(queries), block):
        part = queries[first : first + block]
        target = rows[pairs[first : first + block]]
        best = torch.full(target.shape[:2], -1.0, dtype=queries.dtype)
        for flip, scale, rotation in alignments.warps():
            warped = warp(part, flip=flip, scale=scale, rotation=rotation)
            columns = F.unfold(warped, window)
            columns = columns - columns.mean(dim=1, keepdim=True)
            length = columns.norm(dim=1).clamp_min(1e-6)
            score = torch.bmm(target, columns) / length[:, None, :]
            torch.maximum(best, score.amax(dim=2), out=best)
        out[first : first + block] = best
    return out.clamp_(-1.0, 1.0)


def _window(images: Tensor, margin: int, dy: int, dx: int) -> Tensor:
    height, width = images.shape[-2:]
    return images[..., margin + dy : height - margin + dy, margin + dx : width - margin + dx]
