"""Aligned zero-mean normalised cross-correlation: similarity of two images after the best small alignment."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from models.privacy.kept_tensors import kept_for
from models.privacy.tiled_matmul import raise_to_products, rows_at_once

Tensor = torch.Tensor

LEAST_RELIABILITY = 0.3
"""Lower bound of the share of a query's content that is not noise. It limits `noise_gain` for images that are
nearly all noise, which resemble every image a little."""
FLAT = 1e-3
"""Norm below which a window in [-1, 1] contains only rounding errors and matches nothing."""


@dataclass(frozen=True)
class Alignments:
    """Alignments of a query that are tried, the same for every reference.

    Attributes:
        max_shift: largest shift in each direction, in pixels; shifts are one pixel apart.
        scales: zoom factors about the centre.
        rotations: rotations about the centre, in degrees.
        flip: whether the mirror image is tried too.
        sigma: blur in pixels whose low frequencies are removed before comparing (`low_frequencies`).
    """

    max_shift: int = 2
    scales: tuple[float, ...] = (0.95, 1.0, 1.05)
    rotations: tuple[float, ...] = (0.0,)
    flip: bool = True
    sigma: float = 4.0

    def __post_init__(self) -> None:
        if self.max_shift < 0:
            raise ValueError(f"max_shift must be at least 0, got {self.max_shift}")
        if not self.scales or min(self.scales) <= 0:
            raise ValueError(f"scales must be positive and not empty, got {self.scales}")
        if not self.rotations:
            raise ValueError("rotations must not be empty")

    @property
    def margin(self) -> int:
        """Pixels cropped on each side: the reach of the shifts and of `soften`, which repeats the edge."""
        return self.max_shift + 1

    def warps(self) -> list[tuple[bool, float, float]]:
        """Return every (flip, scale, rotation in degrees); each is combined with all shifts."""
        flips = (False, True) if self.flip else (False,)
        return [(f, s, r) for f in flips for s in self.scales for r in self.rotations]


def flat_field(images: Tensor, *, sigma: float) -> Tensor:
    """Subtract the low frequencies (a Gaussian blur of `sigma` pixels, edges mirrored).

    Radiographs of one view share their large-scale brightness, so without this all of them are correlated.

    Args:
        images: (N, 1, H, W) float.
        sigma: standard deviation of the removed blur in pixels.

    Returns:
        (N, 1, H, W), the same dtype.
    """
    if sigma <= 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    rows, columns = (kept_for(images, _blur_matrix, size, sigma) for size in images.shape[-2:])
    return images - rows @ images @ columns.T


def _blur_matrix(size: int, sigma: float) -> Tensor:
    """Return the (size, size) matrix of a Gaussian blur with mirrored edges; faster than a kernel."""
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


def low_frequencies(height: int, width: int, sigma: float) -> Tensor:
    """Return the cosine patterns (DCT-II) that a Gaussian blur of `sigma` pixels passes by half or more.

    Removing them from a window flat-fields it with the content of the window alone. A blur would depend on
    pixels outside the window, and a shifted copy would differ from its source near the edges.

    Returns:
        (height x width, k) orthonormal columns; the first one is constant.
    """
    if sigma <= 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    # The blur's transfer function exp(-2 (pi sigma f)^2) is one half at this frequency (cycles a pixel).
    cutoff = math.sqrt(math.log(2) / 2) / (math.pi * sigma)

    def cosines(size: int) -> Tensor:
        at = (torch.arange(size, dtype=torch.float64) + 0.5) * (math.pi / size)
        rows = torch.cos(torch.arange(size, dtype=torch.float64)[:, None] * at)
        return rows / rows.norm(dim=1, keepdim=True)

    down, across = cosines(height), cosines(width)
    kept = [
        torch.outer(down[i], across[j]).flatten()
        for i in range(height)
        for j in range(width)
        if math.hypot(i / (2 * height), j / (2 * width)) <= cutoff
    ]
    return torch.stack(kept, dim=1).float()


def unit_rows(images: Tensor, sigma: float) -> Tensor:
    """Flatten images to (N, d) rows of unit norm without low frequencies (mean included); 0 if constant."""
    basis = kept_for(images, low_frequencies, *images.shape[-2:], sigma)
    rows = images.flatten(1)
    rows = rows - (rows @ basis) @ basis.T
    length = rows.norm(dim=1, keepdim=True)
    return torch.where(length > FLAT, rows / length.clamp_min(FLAT), 0.0)


def warp(images: Tensor, *, flip: bool, scale: float, rotation: float) -> Tensor:
    """Mirror, zoom by `scale` and rotate by `rotation` degrees about the centre (bilinear, edge repeated)."""
    if flip:
        images = images.flip(-1)
    if scale == 1.0 and rotation == 0.0:
        return images
    grid = kept_for(images, _places, *images.shape[-2:], scale, rotation)
    grid = grid.expand(len(images), -1, -1, -1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _places(height: int, width: int, scale: float, rotation: float) -> Tensor:
    """Return the sampling grid (1, H, W, 2) of `warp`."""
    angle = math.radians(rotation)
    cos, sin = math.cos(angle) / scale, math.sin(angle) / scale
    theta = torch.tensor([[cos, -sin, 0.0], [sin, cos, 0.0]])
    return F.affine_grid(theta[None], [1, 1, height, width], align_corners=False)


def soften(images: Tensor) -> Tensor:
    """Blur with the kernel (1, 2, 1) / 4 in both directions, edges repeated.

    Resampling an image blurs it by about as much, and noise is mainly in what the blur removes. Without it, a
    zoomed or noisy copy of a sharp image is less similar to its source than the image of another patient.
    """
    # Two means of neighbours in each direction: a convolution takes ten times as long on a CPU.
    sums = F.pad(images, (1, 1, 1, 1), mode="replicate")
    for _ in range(2):
        sums = sums[..., :-1] + sums[..., 1:]
        sums = sums[..., :-1, :] + sums[..., 1:, :]
    return sums / 16


def noise_variance(images: Tensor) -> Tensor:
    """Return the variance of white noise (N,) in (N, 1, H, W) images if all fine detail were noise.

    This is the mean square under a mask that ignores linear variation along an axis (Immerkaer 1996,
    doi 10.1006/cviu.1996.0060). It includes texture, so only the excess over other images is noise.
    """
    fine = images.diff(n=2, dim=-1).diff(n=2, dim=-2)
    # The mask is (1, -2, 1) by (1, -2, 1), whose squares add up to 6 by 6.
    return fine.square().mean(dim=(1, 2, 3)) / 36


def noise_gain(queries: Tensor, texture: float, alignments: Alignments) -> Tensor:
    """Return the factor (N,), at least 1, by which noise lowers the similarity of each query to its source.

    Noise in the query alone lowers its correlation with every reference by the same factor: the square root
    of the share of its content that is not noise (attenuation, Spearman 1904). Correcting for it makes a
    noisy copy as close to its source as a clean one. All references of a query get the same factor, so the
    sides remain a fair coin flip.

    Args:
        queries: (N, 1, H, W) in [-1, 1].
        texture: `noise_variance` of the fine detail that real images have.
        alignments: determines the compared window and the low frequencies that are removed.
    """
    window = centre(soften(queries), alignments.margin)
    basis = kept_for(window, low_frequencies, *window.shape[-2:], alignments.sigma)
    rows = window.flatten(1)
    content = (rows - (rows @ basis) @ basis.T).square().sum(dim=1)
    # `soften` leaves (1 + 4 + 1) / 16 of the variance of white noise in each direction.
    left = (6 / 16) ** 2 * (rows.shape[1] - basis.shape[1])
    noise = (noise_variance(queries) - texture).clamp_min(0.0) * left
    return (1.0 - noise / content.clamp_min(FLAT)).clamp(LEAST_RELIABILITY, 1.0).rsqrt()


def centre(images: Tensor, margin: int) -> Tensor:
    """Crop `margin` pixels on each side, so that a shifted copy is compared on the content of both images."""
    if 2 * margin >= min(images.shape[-2:]):
        raise ValueError(f"margin must be below half the image size, got {margin}")
    return images if margin == 0 else images[..., margin:-margin, margin:-margin]


def coarse_similarity(
    queries: Tensor, references: Tensor, alignments: Alignments, *, block: int | None = None
) -> Iterator[tuple[int, Tensor]]:
    """Yield the best coarse similarity of each query with each reference, one block of queries at a time.

    It works at half resolution and tries shifts two pixels apart, and the largest shift. This is cheap enough
    for all pairs and selects the few pairs for `aligned_similarity`. Memory is `block` x references.

    Args:
        queries: (N, 1, H, W) in [-1, 1].
        references: (M, 1, H, W) in [-1, 1].
        alignments: alignments that are tried.
        block: queries per block; None chooses by device.

    Yields:
        (first query row, (n, M) similarity in [-1, 1]).
    """
    reach, margin, half = alignments.max_shift, alignments.margin, alignments.sigma / 2
    references = soften(references)
    window = tuple(size - 2 * margin for size in references.shape[-2:])
    reference_rows = unit_rows(F.avg_pool2d(centre(references, margin), 2), half)
    steps = sorted({-reach, reach, *range(0, reach, 2), *range(0, -reach, -2)})
    each = 8 * max(len(references), references[:1].numel())
    block = block or rows_at_once(each, queries.device, on_cpu=512)
    for first in range(0, len(queries), block):
        part = soften(queries[first : first + block])
        best = reference_rows.new_full((len(part), len(references)), -1.0)
        for flip, scale, rotation in alignments.warps():
            warped = warp(part, flip=flip, scale=scale, rotation=rotation)
            # Means of 2x2 pixels starting at every pixel: each shift selects its own subset.
            means = F.avg_pool2d(warped, 2, stride=1)
            moved = [_every_other(means, window, margin + dy, margin + dx) for dy in steps for dx in steps]
            raise_to_windows(best, moved, reference_rows, half)
        yield first, best


def raise_to_windows(best: Tensor, windows: Sequence[Tensor], rows: Tensor, sigma: float) -> None:
    """Replace every entry of `best` (n, M) by the largest correlation of any window with `rows`, if larger.

    Args:
        best: (n, M), modified in place.
        windows: several windows (n, 1, h, w) of the same queries.
        rows: (M, h x w) rows of `unit_rows` with the same `sigma`.
        sigma: blur in pixels whose low frequencies are removed.
    """
    # `unit_rows` allocates a few tensors of the size of the windows.
    few = rows_at_once(8 * windows[0].numel(), best.device, on_cpu=len(windows))
    for first in range(0, len(windows), few):
        part = windows[first : first + few]
        flat = unit_rows(torch.cat(list(part)), sigma)
        raise_to_products(best, flat.unflatten(0, (len(part), len(best))), rows)


def aligned_similarity(
    queries: Tensor, references: Tensor, pairs: Tensor, alignments: Alignments, *, block: int | None = None
) -> Tensor:
    """Return the best zero-mean normalised cross-correlation of each query with its listed references.

    Args:
        queries: (N, 1, H, W) in [-1, 1].
        references: (M, 1, H, W) in [-1, 1].
        pairs: (N, k) rows of the references to compare each query with.
        alignments: warps and integer shifts that are tried.
        block: queries per block; memory is about block x shifts x H x W floats. None chooses by device.

    Returns:
        (N, k) similarity in [-1, 1].
    """
    margin = alignments.margin
    rows = unit_rows(centre(soften(references), margin), alignments.sigma)
    window = (queries.shape[-2] - 2 * margin, queries.shape[-1] - 2 * margin)
    basis = kept_for(queries, low_frequencies, *window, alignments.sigma).T
    num_low = len(basis)
    down, across = (kept_for(queries, _box, size + 2 * alignments.max_shift, size) for size in window)
    out = queries.new_empty(pairs.shape)
    # Windows of a query and the references they are compared with, each copied once.
    each = 2 * ((2 * alignments.max_shift + 1) ** 2 + num_low + pairs.shape[1]) * window[0] * window[1]
    block = block or rows_at_once(each, queries.device, on_cpu=32)
    for first in range(0, len(queries), block):
        part = soften(queries[first : first + block])
        near = rows[pairs[first : first + block]]
        # The low frequencies are part of the product: |a|^2 minus their share is the filtered norm. The
        # references do not contain them, so a filtered and an unfiltered query have the same score.
        target = torch.cat([basis.expand(len(part), -1, -1), near], dim=1)
        best = queries.new_full(near.shape[:2], -1.0)
        for flip, scale, rotation in alignments.warps():
            warped = warp(part, flip=flip, scale=scale, rotation=rotation)
            reached = centre(warped, margin - alignments.max_shift)
            shown = reached[:, 0].unfold(1, window[0], 1).unfold(2, window[1], 1).flatten(3).flatten(1, 2)
            product = torch.bmm(target, shown.transpose(1, 2))
            low, score = product[:, :num_low], product[:, num_low:]
            squared = (down @ reached.square() @ across.T).flatten(1)
            length = (squared - low.square().sum(dim=1)).clamp_min(0).sqrt()
            score = torch.where(length[:, None] > FLAT, score / length.clamp_min(FLAT)[:, None], 0.0)
            torch.maximum(best, score.amax(dim=2), out=best)
        out[first : first + block] = best
    return out.clamp_(-1.0, 1.0)


def _box(size: int, window: int) -> Tensor:
    """Return the (size - window + 1, size) matrix that sums `window` neighbours at every position."""
    places = torch.arange(size) - torch.arange(size - window + 1)[:, None]
    return ((places >= 0) & (places < window)).float()


def _every_other(means: Tensor, window: tuple[int, ...], top: int, left: int) -> Tensor:
    height, width = window
    return means[..., top : top + height - 1 : 2, left : left + width - 1 : 2]
