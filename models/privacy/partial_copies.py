"""Copies of a part of an image, and blends of two: what a comparison of whole images does not see."""

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
    block: int | None = None,
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
        block: queries at a time; memory is about block x M floats a half. None leaves it to the device.

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
    """Yield how far the best pair of train images stands out in explaining each query as a blend of both.

    A pair explains a query by its multiple correlation with both images, the weights of both positive. The
    first image of a pair is one of the `shortlist` most alike ones, the second is any (orthogonal matching
    pursuit with a wide first step; Pati et al. 1993). The distance of a pair is 1 - its multiple correlation.

    Args:
        queries: (N, 1, H, W) in [-1, 1].
        references: (M, 1, H, W) in [-1, 1]; their mirror images are tried too.
        patients: (M,) patient codes; in_train: (M,) whether trained on; both on the CPU.
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
    # Train images go in front, so that pairs of them are looked at without picking them out.
    sides = (in_train.nonzero().flatten(), (~in_train).nonzero().flatten())
    owner = torch.cat([patients[side].repeat(2) for side in sides])
    device = rows.device
    placed = [to_device(side, device) for side in sides]
    known = torch.cat([images[side] for side in placed for images in (rows, mirrored)])
    among = _Known(known, to_device(owner, device), _Kin.of(owner, device), 2 * len(sides[0]))
    shortlist = min(shortlist, len(known))
    block = rows_at_once(8 * len(known), device, on_cpu=max(1, 2**24 // len(known)))
    # More than a processor's cache holds: a product of too few rows is slow too.
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
    """Which images are of one patient: those of an image stand together in `order`, from `first` on."""

    order: Tensor
    first: Tensor
    count: Tensor
    most: int

    @classmethod
    def of(cls, owner: Tensor, device: torch.device) -> _Kin:
        """Return the kin of images whose patients are `owner` (M,), which lies on the CPU."""
        _, codes, counts = owner.unique(return_inverse=True, return_counts=True)
        order, first = codes.argsort(stable=True), counts.cumsum(0) - counts
        order, first, count = (to_device(each, device) for each in (order, first[codes], counts[codes]))
        return cls(order, first, count, int(counts.max()))

    def rows(self, chosen: Tensor) -> Tensor:
        """Return (..., most) rows of the images of each chosen one's patient (...), the last repeated."""
        places = torch.arange(self.most, device=chosen.device)
        places = torch.minimum(places, self.count[chosen][..., None] - 1)
        return self.order[self.first[chosen][..., None] + places]


@dataclass(frozen=True)
class _Known:
    """Images that a blend may be made of.

    Attributes:
        rows: (M, d) of unit length, those of the `num_trained` train images first.
        owner: (M,) patient codes; kin: the images of one patient.
    """

    rows: Tensor
    owner: Tensor
    kin: _Kin
    num_trained: int

    def isolation(self, alike: Tensor, to_first: Tensor, firsts: Tensor, least: float) -> Tensor:
        """Return (n,) how far the best pair of train images stands out; see `blend_isolation`.

        Args:
            alike: (n, M) correlation of the queries with all images, -1 with those left out.
            to_first: (n, k) the largest of them; firsts: (n, k) the rows that have these, tried as the first.
            least: smallest distance that counts.
        """
        added = self._added(alike, to_first, firsts)
        here, one = torch.arange(len(firsts), device=firsts.device), self.owner[firsts]
        # No first image is of train where no image is: the one column then stands for none.
        by_train = added[:, :, : max(1, self.num_trained)]
        explained = _explained(to_first, by_train, least).masked_fill(firsts >= self.num_trained, 0.0)
        best, which = explained.max(dim=1)
        leading, second = firsts[here, which], by_train[here, which].argmax(dim=1)
        # A copy of one image needs no second: any would explain it as well, and rounding would choose.
        copied = _copied(to_first[here, which], least)
        pair = torch.stack([leading, torch.where(copied, leading, second)], dim=1)
        found = self.owner[pair]
        named = (one == found[:, :1]) | (one == found[:, 1:])
        theirs = self.kin.rows(pair).flatten(1)
        added.scatter_(2, theirs[:, None].expand(-1, firsts.shape[1], -1), 0.0)
        free = _explained(to_first, added, least).masked_fill(named, 0.0).amax(dim=1)
        return _distance(best, least).log() - _distance(free, least).log()

    def _added(self, alike: Tensor, to_first: Tensor, firsts: Tensor) -> Tensor:
        """Return (n, k, M) what each image as the second adds to each first: a semipartial correlation.

        Not positive where the pair is no blend: a weight is not positive, both are of one patient or too much
        alike. A pair counts from the side of the image that is more alike to the query: with correlations
        a >= b > -1 with the query and g with each other, the weights (a - b g, b - a g) of the least-squares
        blend are then both positive if the second is.
        """
        count = firsts.shape[1]
        turned = -self.rows[firsts].flatten(0, 1)
        added = alike.new_empty(*firsts.shape, len(self.rows))
        one, least = to_first.new_ones(1), 1.0 - MAX_CORRELATION**2
        for tile in tiles(len(turned), len(self.rows), added.device):
            # The opposite of the correlation with each other; -3 makes the second weight negative.
            apart = torch.mm(turned, self.rows[tile].T).view(*firsts.shape, -1)
            F.threshold(apart, -MAX_CORRELATION, -3.0, inplace=True)
            second = torch.addcmul(alike[:, None, tile], to_first[:, :, None], apart)
            left = torch.addcmul(one, apart, apart, value=-1.0, out=apart).clamp_min_(least).rsqrt_()
            torch.mul(second, left, out=added[:, :, tile])
        before = torch.ones(count, count, dtype=torch.bool, device=firsts.device).tril(-1)
        # Of the first images, those before each one; its own place, which is taken anyway, for the others.
        earlier = torch.where(before, firsts[:, None, :], firsts[:, :, None])
        return added.scatter_(2, torch.cat([self.kin.rows(firsts), earlier], dim=2), 0.0)


def _explained(to_first: Tensor, added: Tensor, least: float) -> Tensor:
    """Return (n, k) squared multiple correlation of the best pair with each first image, 0 where is none.

    What is a copy of the first image is explained by it alone: only by rounding does another add to that.
    """
    most = added.amax(dim=2)
    counts = (to_first > 0) & ((most > 0) | _copied(to_first, least))
    return torch.where(counts, to_first.square() + most.clamp_min(0.0).square(), 0.0)


def _copied(alike: Tensor, least: float) -> Tensor:
    """Return whether images of these correlations are copies of each other."""
    return _distance(alike.square(), least) <= least


def _distance(squared: Tensor, least: float) -> Tensor:
    wide = squared.to(choices(squared.device).wide)
    return (1.0 - wide.clamp(0.0, 1.0).sqrt()).clamp_min(least)


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
