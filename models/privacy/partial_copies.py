"""Partial copies and blends of two images, which a comparison of whole images misses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from models.devices import choices, to_device
from models.privacy.matching import centre, raise_to_windows, soften, unit_rows
from models.privacy.tiled_matmul import product, rows_at_once, tiles

HALVES = ("left", "right", "top", "bottom")
BLEND_MARGIN = 2
"""Pixels cropped on each side before the search for blends."""
MAX_CORRELATION = 0.95
"""Largest correlation of two sources of a blend: the difference of more similar references is rounding."""


def half_similarity(
    queries: Tensor,
    references: Tensor,
    *,
    sigma: float,
    halves: Sequence[str] = HALVES,
    max_shift: int = 1,
    block: int | None = None,
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Yield the similarity of each half of each query to the same half of each reference, block by block.

    The similarity is the zero-mean normalised cross-correlation within the half, without low frequencies. It
    is the largest over the mirror image and integer shifts. A composite of two images has one half of each.

    Args:
        queries: (N, 1, H, W) in [-1, 1].
        references: (M, 1, H, W) in [-1, 1].
        sigma: blur in pixels whose low frequencies are removed.
        halves: names of the halves, from `HALVES`.
        max_shift: largest shift of the query in each direction, in pixels.
        block: queries per block; memory is about block x M floats per half. None chooses by device.

    Yields:
        (first query row, half -> (n, M) similarity in [-1, 1]).
    """
    every = _halves(*references.shape[-2:], margin=max_shift + 1)
    windows = {name: every[name] for name in halves}
    smooth = soften(references)
    rows = {name: unit_rows(_cut(smooth, window, 0, 0), sigma) for name, window in windows.items()}
    steps = range(-max_shift, max_shift + 1)
    each = 8 * max(len(references), references[:1].numel())
    block = block or rows_at_once(each, queries.device, on_cpu=256)
    for first in range(0, len(queries), block):
        part = soften(queries[first : first + block])
        shape = (len(part), len(references))
        best = {name: smooth.new_full(shape, -1.0) for name in windows}
        for image in (part, part.flip(-1)):
            for name, window in windows.items():
                moved = [_cut(image, window, dy, dx) for dy in steps for dx in steps]
                raise_to_windows(best[name], moved, rows[name], sigma)
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
    """Yield how far the best pair of train images stands out in explaining each query as their blend.

    A pair explains a query by the multiple correlation of the query with both images, with positive weights.
    The first image of a pair is one of the `shortlist` most similar images; the second is any image
    (orthogonal matching pursuit with a wide first step; Pati et al. 1993). The distance of a pair is
    1 - multiple correlation.

    Args:
        queries: (N, 1, H, W) in [-1, 1].
        references: (M, 1, H, W) in [-1, 1]; their mirror images are tried too.
        patients: (M,) patient codes, on the CPU.
        in_train: (M,) whether each reference was trained on, on the CPU.
        own: (N,) code of the patient whose images are excluded for each query, -1 for none.
        sigma: blur in pixels whose low frequencies are removed.
        shortlist: number of first images tried for each query.
        least: smallest distance; smaller differences are rounding.

    Yields:
        (row of the first query, (n,) isolation). The isolation is the log distance of the best pair of two
        train patients minus that of the best pair that contains neither of them. It is strongly negative for
        a blend of two train images, and 0 if no pair of train images explains anything.
    """
    rows, mirrored = (
        unit_rows(centre(soften(images), BLEND_MARGIN), sigma) for images in (references, references.flip(-1))
    )
    # Train images come first, so that pairs of them are a slice.
    sides = (in_train.nonzero().flatten(), (~in_train).nonzero().flatten())
    owner = torch.cat([patients[side].repeat(2) for side in sides])
    device = rows.device
    placed = [to_device(side, device) for side in sides]
    known = torch.cat([images[side] for side in placed for images in (rows, mirrored)])
    among = _Known(known, to_device(owner, device), _Kin.of(owner, device), 2 * len(sides[0]))
    shortlist = min(shortlist, len(known))
    block = rows_at_once(8 * len(known), device, on_cpu=max(1, 2**24 // len(known)))
    # Larger than the cache of a CPU: a product of too few rows is slow too.
    pairs = shortlist * len(known)
    step = rows_at_once(6 * pairs, device, on_cpu=max(1, 2**22 // pairs))
    for first in range(0, len(queries), block):
        part = unit_rows(centre(soften(queries[first : first + block]), BLEND_MARGIN), sigma)
        alike = product(part, known)
        alike.masked_fill_(own[first : first + block, None] == among.owner, -1.0)
        to_first, firsts = alike.topk(shortlist, dim=1)
        few = [slice(at, at + step) for at in range(0, len(part), step)]
        yield first, torch.cat([among.isolation(alike[s], to_first[s], firsts[s], least) for s in few])


@dataclass(frozen=True)
class _Kin:
    """Images grouped by patient.

    Attributes:
        order: (M,) rows of all images, those of one patient next to each other.
        first: (M,) position in `order` of the first image of each image's patient.
        count: (M,) number of images of each image's patient.
        most: largest number of images of a patient.
    """

    order: Tensor
    first: Tensor
    count: Tensor
    most: int

    @classmethod
    def of(cls, owner: Tensor, device: torch.device) -> _Kin:
        """Return the groups of images whose patients are `owner` (M,), which is on the CPU."""
        _, codes, counts = owner.unique(return_inverse=True, return_counts=True)
        order, first = codes.argsort(stable=True), counts.cumsum(0) - counts
        order, first, count = (to_device(each, device) for each in (order, first[codes], counts[codes]))
        return cls(order, first, count, int(counts.max()))

    def rows(self, chosen: Tensor) -> Tensor:
        """Return (..., most) rows of all images of the chosen images' patients; the last row is repeated."""
        places = torch.arange(self.most, device=chosen.device)
        places = torch.minimum(places, self.count[chosen][..., None] - 1)
        return self.order[self.first[chosen][..., None] + places]


@dataclass(frozen=True)
class _Known:
    """Possible sources of a blend.

    Attributes:
        rows: (M, d) images as unit vectors, train images first.
        owner: (M,) patient codes.
        kin: the images grouped by patient.
        num_trained: number of train images.
    """

    rows: Tensor
    owner: Tensor
    kin: _Kin
    num_trained: int

    def isolation(self, alike: Tensor, to_first: Tensor, firsts: Tensor, least: float) -> Tensor:
        """Return the isolation (n,) of the best pair of train images; see `blend_isolation`.

        Args:
            alike: (n, M) correlation of the queries with all images, -1 with excluded images.
            to_first: (n, k) the largest of these correlations.
            firsts: (n, k) rows of the images with these correlations, tried as the first of a pair.
            least: smallest distance.
        """
        added = self._added(alike, to_first, firsts)
        here, one = torch.arange(len(firsts), device=firsts.device), self.owner[firsts]
        # Without train images no first image is of train, and the one column is masked below.
        by_train = added[:, :, : max(1, self.num_trained)]
        explained = _explained(to_first, by_train, least).masked_fill(firsts >= self.num_trained, 0.0)
        best, which = explained.max(dim=1)
        leading, second = firsts[here, which], by_train[here, which].argmax(dim=1)
        # A copy of one image needs no second image: all would explain it equally, and rounding would decide.
        copied = _copied(to_first[here, which], least)
        pair = torch.stack([leading, torch.where(copied, leading, second)], dim=1)
        found = self.owner[pair]
        named = (one == found[:, :1]) | (one == found[:, 1:])
        theirs = self.kin.rows(pair).flatten(1)
        added.scatter_(2, theirs[:, None].expand(-1, firsts.shape[1], -1), 0.0)
        free = _explained(to_first, added, least).masked_fill(named, 0.0).amax(dim=1)
        return _distance(best, least).log() - _distance(free, least).log()

    def _added(self, alike: Tensor, to_first: Tensor, firsts: Tensor) -> Tensor:
        """Return the semipartial correlation (n, k, M) that each second image adds to each first image.

        It is not positive if the pair is not a blend: a weight is not positive, or both images are of one
        patient or too similar.

        A pair is counted once, with the image that is more similar to the query as the first. Let a >= b > -1
        be the correlations of the images with the query, and g their correlation with each other. The weights
        of the least-squares blend are proportional to (a - b g, b - a g); the first is positive if the second
        is.
        """
        count = firsts.shape[1]
        turned = -self.rows[firsts].flatten(0, 1)
        added = alike.new_empty(*firsts.shape, len(self.rows))
        one, least = to_first.new_ones(1), 1.0 - MAX_CORRELATION**2
        for tile in tiles(len(turned), len(self.rows), added.device):
            # The negative of the correlation with each other; -3 makes the second weight negative.
            apart = torch.mm(turned, self.rows[tile].T).view(*firsts.shape, -1)
            F.threshold(apart, -MAX_CORRELATION, -3.0, inplace=True)
            second = torch.addcmul(alike[:, None, tile], to_first[:, :, None], apart)
            left = torch.addcmul(one, apart, apart, value=-1.0, out=apart).clamp_min_(least).rsqrt_()
            torch.mul(second, left, out=added[:, :, tile])
        before = torch.ones(count, count, dtype=torch.bool, device=firsts.device).tril(-1)
        # The earlier first images of each first image; the image itself, which is excluded anyway, otherwise.
        earlier = torch.where(before, firsts[:, None, :], firsts[:, :, None])
        return added.scatter_(2, torch.cat([self.kin.rows(firsts), earlier], dim=2), 0.0)


def _explained(to_first: Tensor, added: Tensor, least: float) -> Tensor:
    """Return the squared multiple correlation (n, k) of the best pair with each first image, 0 if none.

    A copy of the first image is explained by it alone; a second image adds only rounding errors.
    """
    most = added.amax(dim=2)
    counts = (to_first > 0) & ((most > 0) | _copied(to_first, least))
    return torch.where(counts, to_first.square() + most.clamp_min(0.0).square(), 0.0)


def _copied(alike: Tensor, least: float) -> Tensor:
    """Return whether images with these correlations are copies of each other."""
    return _distance(alike.square(), least) <= least


def _distance(squared: Tensor, least: float) -> Tensor:
    wide = squared.to(choices(squared.device).wide)
    return (1.0 - wide.clamp(0.0, 1.0).sqrt()).clamp_min(least)


def _halves(height: int, width: int, *, margin: int) -> dict[str, tuple[int, int, int, int]]:
    """Return (top, bottom, left, right) of each half, `margin` pixels from the edges of the image."""
    if 4 * margin >= min(height, width):
        raise ValueError(f"images of {height}x{width} pixels are too small for a margin of {margin} pixels")
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
