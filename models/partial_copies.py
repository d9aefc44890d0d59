"""Copies of a part of an image, and blends of two: what a comparison of whole images does not see."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from models.matching import centre, soften, unit_rows

HALVES = ("left", "right", "top", "bottom")
BLEND_MARGIN = 2
"""Pixels cut off each side before blends are looked for."""
MAX_CORRELATION = 0.95
"""Two references more alike than this are no blend of two: their difference would be rounding."""


def half_similarity(
    queries: Tensor,
    references: Tensor,
    *,
    sigma: float,
    halves: Sequence[str] = HALVES,
    max_shift: int = 1,
    block: int = 256,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Yield how alike each half of each query is to the same half of each reference, a block at a time.

    Zero-mean normalised cross-correlation within the half, low frequencies taken out, over the mirror image
    and whole-pixel shifts. A composite of two images has one half of each.

    Args:
        queries: (N, 1, H, W) in [-1, 1].
        references: (M, 1, H, W) in [-1, 1].
        sigma: blur in pixels whose low frequencies are taken out.
        halves: of `HALVES`.
        max_shift: shifts of the query in each direction, in pixels.
        block: queries at a time; memory is about block x M floats a half.

    Yields:
        (first query row, half -> (n, M) similarity in [-1, 1]).
    """
    every = _halves(*references.shape[-2:], margin=max_shift + 1)
    windows = {name: every[name] for name in halves}
    smooth = soften(references)
    rows = {name: unit_rows(_cut(smooth, w, 0, 0), sigma).T.contiguous() for name, w in windows.items()}
    steps = range(-max_shift, max_shift + 1)
    for first in range(0, len(queries), block):
        part = soften(queries[first : first + block])
        best: dict[str, Tensor] = {}
        for image in (part, part.flip(-1)):
            for name, window in windows.items():
                for dy in steps:
                    for dx in steps:
                        score = unit_rows(_cut(image, window, dy, dx), sigma) @ rows[name]
                        best[name] = torch.maximum(best[name], score) if name in best else score
        yield first, best


def blend_isolation(
    queries: Tensor,
    references: Tensor,
    *,
    patients: Tensor,
    in_train: Tensor,
    own: Tensor,
    sigma: float,
    shortlist: int = 32,
    least: float = 1e-3,
) -> Iterator[tuple[int, Tensor]]:
    """Yield how far the best pair of train images stands out in explaining each query as a blend of both.

    A pair explains a query by its multiple correlation with both images, the weights of both positive. The
    first image of a pair is one of the `shortlist` most alike ones, the second is any (orthogonal matching
    pursuit with a wide first step; Pati et al. 1993). The distance of a pair is 1 - its multiple correlation.

    Args:
        queries: (N, 1, H, W) in [-1, 1].
        references: (M, 1, H, W) in [-1, 1]; their mirror images are tried too.
        patients: (M,) patient codes; in_train: (M,) whether trained on.
        own: (N,) patient codes whose images are left out for a query, -1 for none.
        sigma: blur in pixels whose low frequencies are taken out.
        shortlist: first images tried for each query.
        least: smallest distance that counts; below it is rounding.

    Yields:
        (first query row, (n,) log distance of the best pair of two train patients minus that of the best pair
        that holds neither of them); strongly negative for a blend of two train images, 0 where no pair of
        train images explains anything.
    """
    rows, mirrored = (
        unit_rows(centre(soften(images), BLEND_MARGIN), sigma) for images in (references, references.flip(-1))
    )
    known = torch.cat([rows, mirrored])
    columns = known.T.contiguous()
    owner, trained = patients.repeat(2), in_train.repeat(2)
    shortlist = min(shortlist, len(known))
    block = max(1, 2**24 // (shortlist * len(known)))
    for first in range(0, len(queries), block):
        part = unit_rows(centre(soften(queries[first : first + block]), BLEND_MARGIN), sigma)
        alike = part @ columns
        alike.masked_fill_(own[first : first + block, None] == owner[None, :], -1.0)
        top = alike.topk(shortlist, dim=1)
        explained = _explained(known[top.indices], top.values, alike, columns)
        one = owner[top.indices]
        explained.masked_fill_(one[:, :, None] == owner[None, None, :], 0.0)
        both = trained[top.indices][:, :, None] & trained[None, None, :]
        best, where = torch.where(both, explained, 0.0).flatten(1).max(dim=1)
        found = (one.gather(1, (where // len(known))[:, None]), owner[where % len(known)][:, None])
        named = (one == found[0]) | (one == found[1])
        other = (owner[None, :] == found[0]) | (owner[None, :] == found[1])
        explained.masked_fill_(named[:, :, None] | other[:, None, :], 0.0)
        free = explained.flatten(1).amax(dim=1)
        yield first, _distance(best, least).log() - _distance(free, least).log()


def _explained(firsts: Tensor, to_first: Tensor, to_all: Tensor, columns: Tensor) -> Tensor:
    """Return squared multiple correlations (n, k, M) of queries with each first and each second image.

    Args:
        firsts: (n, k, d) unit rows; to_first: (n, k) their correlation with the query; to_all: (n, M) that of
            all images; columns: (d, M) all images.
    """
    between = (firsts.flatten(0, 1) @ columns).view(*to_first.shape, -1)
    a, b = to_first[:, :, None], to_all[:, None, :]
    # The weights of both in the least-squares blend are these, over a common positive factor.
    weight_a, weight_b = a - b * between, b - a * between
    squared = (a * weight_a + b * weight_b) / (1.0 - between.square()).clamp_min(1.0 - MAX_CORRELATION**2)
    plausible = (weight_a > 0) & (weight_b > 0) & (between < MAX_CORRELATION) & (b > -1.0)
    return torch.where(plausible, squared, 0.0)


def _distance(squared: Tensor, least: float) -> Tensor:
    return (1.0 - squared.double().clamp(0.0, 1.0).sqrt()).clamp_min(least)


def _halves(height: int, width: int, *, margin: int) -> dict[str, tuple[int, int, int, int]]:
    """Return (top, bottom, left, right) of each half, `margin` pixels off the edges of the image."""
    if 4 * margin >= min(height, width):
        raise ValueError(f"images of {height}x{width} have no halves {margin} pixels off the edge")
    bottom, right, middle, centre = height - margin, width - margin, height // 2, width // 2
    return {
        "left": (margin, bottom, margin, centre),
        "right": (margin, bottom, centre, right),
        "top": (margin, middle, margin, right),
        "bottom": (middle, bottom, margin, right),
    }


def _cut(images: Tensor, window: tuple[int, int, int, int], dy: int, dx: int) -> Tensor:
    top, bottom, left, right = window
    return images[..., top + dy : bottom + dy, left + dx : right + dx]
