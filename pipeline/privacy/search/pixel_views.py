"""Views that compare pixels: the whole image after alignment, its halves, and blends of two images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch

from models.devices import to_device
from models.privacy.matching import Alignments, aligned_similarity, coarse_similarity, noise_gain
from models.privacy.partial_copies import HALVES, blend_isolation, half_similarity
from pipeline.arrays import Bools, Ints
from pipeline.privacy.search.neighbours import FLOOR, Nearest, Neighbours, Sides, join_nearest, search_block
from pipeline.privacy.settings import AuditSettings
from pipeline.progress import Progress

SCALES = (0.8, 0.87, 0.93, 1.0, 1.07, 1.15, 1.25)
"""Zoom factors tried on the shortlist."""
COARSE_SCALES = (0.85, 1.0, 1.18)
"""Zoom factors tried on all pairs, at half resolution."""
BLEND_SHORTLIST = 32
"""Real images tried as the first of the two sources of a blend."""
LOOKS = 3
"""Number of searches per query, which the progress bar counts."""


@dataclass(frozen=True)
class PixelFound:
    """Results of the pixel views for n queries, on the device of the search.

    Attributes:
        correlation: nearest images by whole-image correlation.
        halves: nearest images by each of `HALVES`.
        blend: (n,) isolation as a blend.
    """

    correlation: Nearest
    halves: tuple[Nearest, ...]
    blend: torch.Tensor

    def of_rows(self, rows: torch.Tensor) -> PixelFound:
        """Return the results with `train_row` mapped from positions in `rows` to rows of all references."""
        correlation, *halves = (
            replace(own, train_row=rows[own.train_row]) for own in (self.correlation, *self.halves)
        )
        return PixelFound(correlation, tuple(halves), self.blend)


@dataclass(frozen=True)
class PixelSearch:
    """Search of real images by the pixel views.

    `patients`, `in_train` and `groups`, (M,) each, are as in `References`.

    Attributes:
        images: (M, 1, h, w) in [-1, 1], on the device of the search.
        settings: alignments and sizes of the shortlists.
        texture: `noise_variance` of the fine detail that real images have.
    """

    images: torch.Tensor
    patients: Ints
    in_train: Bools
    groups: Ints
    settings: AuditSettings
    texture: float

    def sides(self) -> Sides:
        """Return patient, side and fold of the images."""
        return Sides(
            self.patients,
            self.in_train,
            self.groups,
            shortlist=self.settings.shortlist,
            device=self.images.device,
        )

    def among(self, rows: Ints) -> PixelSearch:
        """Return a search of these rows alone, which must include rows of each fold and of the holdout."""
        return replace(
            self,
            images=self.images[to_device(torch.from_numpy(rows), self.images.device)],
            patients=self.patients[rows],
            in_train=self.in_train[rows],
            groups=self.groups[rows],
        )

    def search(self, queries: torch.Tensor, own: torch.Tensor, progress: Progress) -> PixelFound:
        """Return the results for (n, 1, h, w) queries, excluding images of their own patients (n,)."""
        sides, settings = self.sides(), self.settings
        coarse, fine = alignments(settings)
        block = search_block(self.images)
        correlation, halves, blend = [], [], []
        for first, rough in coarse_similarity(queries, self.images, coarse, block=block):
            part = slice(first, first + len(rough))
            barred = sides.barred(own[part])
            pairs = sides.shortlist(rough, barred)
            exact = aligned_similarity(queries[part], self.images, pairs, fine)
            exact = (exact * noise_gain(queries[part], self.texture, fine)[:, None]).clamp(-1.0, 1.0)
            correlation.append(sides.nearest(exact, pairs, barred))
            progress.update(len(rough))
        sigma = settings.flat_field_sigma
        for first, by_half in half_similarity(queries, self.images, sigma=sigma, block=block):
            part = slice(first, first + block)
            halves.append([sides.of_similarity(by_half[name], own[part]) for name in HALVES])
            progress.update(len(own[part]))
        pairs_of = blend_isolation(
            queries,
            self.images,
            patients=torch.from_numpy(self.patients),
            in_train=torch.from_numpy(self.in_train),
            own=own,
            sigma=sigma,
            shortlist=BLEND_SHORTLIST,
            least=FLOOR,
        )
        for _, isolation in pairs_of:
            blend.append(isolation)
            progress.update(len(isolation))
        by_halves = tuple(join_nearest(parts) for parts in zip(*halves, strict=True))
        return PixelFound(join_nearest(correlation), by_halves, torch.cat(blend))

    def search_near(
        self, queries: torch.Tensor, own: torch.Tensor, rows: Ints, progress: Progress
    ) -> PixelFound:
        """Return the results of `search` among the rows (n, k) listed for each query."""
        parts = []
        for place, listed in enumerate(rows):
            unique = np.unique(listed)
            one = slice(place, place + 1)
            found = self.among(unique).search(queries[one], own[one], progress)
            parts.append(found.of_rows(to_device(torch.from_numpy(unique), self.images.device)))
        return PixelFound(
            join_nearest([part.correlation for part in parts]),
            tuple(join_nearest(own) for own in zip(*(part.halves for part in parts), strict=True)),
            torch.cat([part.blend for part in parts]),
        )


def alignments(settings: AuditSettings) -> tuple[Alignments, Alignments]:
    """Return the alignments of the coarse search of all pairs and of the fine search of the shortlist."""
    sigma, reach = settings.flat_field_sigma, settings.max_shift
    coarse = Alignments(reach, COARSE_SCALES, settings.coarse_rotations, sigma=sigma)
    return coarse, Alignments(reach, SCALES, settings.rotations, sigma=sigma)


def most_telling(halves: Sequence[Neighbours]) -> Neighbours:
    """Return for each query the neighbours of the half in which one patient stands out most.

    The gap that selects the half does not depend on the sides, so the side of that half is still a fair coin
    flip.
    """
    chosen = np.stack([half.gap for half in halves]).argmin(axis=0)
    here = np.arange(len(chosen))
    names = [each.name for each in fields(Neighbours)]
    return Neighbours(
        **{name: np.stack([getattr(half, name) for half in halves])[chosen, here] for name in names}
    )
