"""Ways to see that an image is a copy: as a whole, by what is learnt of copies, by halves, as a blend."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from models.copy_embedding import CopyEmbedding, embed
from models.matching import Alignments, aligned_similarity, coarse_similarity, flat_field
from models.partial_copies import HALVES, blend_isolation, half_similarity
from pipeline.privacy.references import Bools, Ints, References
from pipeline.privacy.settings import AuditSettings
from pipeline.progress import track

Floats = npt.NDArray[np.float64]

VIEWS = ("correlation", "embedding", "halves")
BLEND = "blend"
"""Not a view of neighbours: what explains a blend is a pair of images, which lies on no one side."""
NO_PATIENT = -1
FLOOR = 1e-3
"""Distances below this count as this: finer differences are rounding, and the logarithm stays finite."""
FARTHEST = 2.0
"""Distance of images that may not be matched (an image's own patient): 1 - (-1)."""


@dataclass(frozen=True)
class Neighbours:
    """Nearest real images of n queries in one view; distances are 1 - similarity, in [FLOOR, FARTHEST].

    Attributes:
        train: (n,) distance to the nearest train image; train_row its position in the references.
        holdout: (n,) distance to the nearest holdout image.
        rest: (n,) distance to the nearest image of any other patient than that of `train_row`.
        folds: (n, J) distance to the nearest image of each train fold (each about the holdout's size).
        gap: (n,) log distance of the nearest patient minus that of the second nearest, of either side; very
            negative where one patient stands out as the source.
        side: (n,) whether the nearest patient is in train; patient: (n,) its code.
    """

    train: Floats
    train_row: Ints
    holdout: Floats
    rest: Floats
    folds: Floats
    gap: Floats
    side: Bools
    patient: Ints

    def take(self, rows: Ints | Bools | slice) -> Neighbours:
        """Return the neighbours of some queries."""
        return Neighbours(**{name: getattr(self, name)[rows] for name in self.__dataclass_fields__})


@dataclass(frozen=True)
class Found:
    """All that was found about n queries.

    Attributes:
        views: view -> nearest real images.
        blend: (n,) how far the best pair of train images stands out in explaining the query as their blend:
            log distance of that pair minus that of the best pair with neither; very negative for a blend.
    """

    views: dict[str, Neighbours]
    blend: Floats

    def __len__(self) -> int:
        return len(self.blend)

    def take(self, rows: Ints | Bools | slice) -> Found:
        """Return what was found about some queries."""
        return Found({view: own.take(rows) for view, own in self.views.items()}, self.blend[rows])


def alignments(settings: AuditSettings) -> tuple[Alignments, Alignments]:
    """Return what the coarse search of all pairs tries, and the fine one of a few."""
    sigma = settings.flat_field_sigma
    # At half resolution a change of scale or angle this small moves nothing by more than a pixel.
    coarse = Alignments(settings.max_shift, (1.0,), (0.0,), sigma=sigma)
    return coarse, Alignments(settings.max_shift, settings.scales, settings.rotations, sigma=sigma)


def search_block(num_references: int) -> int:
    """Return how many queries are held against so many references at a time."""
    return int(np.clip(2**24 // max(1, num_references), 8, 512))


def embed_flat(network: CopyEmbedding, images: torch.Tensor, settings: AuditSettings) -> torch.Tensor:
    """Return the copy embedding (n, d) of (n, 1, h, w) images in [-1, 1], flat-fielded first."""
    return embed(network, images, lambda batch: flat_field(batch, sigma=settings.flat_field_sigma))


class Views:
    """Searches train and holdout alike in every view.

    Args:
        references: the real images.
        network: the copy-detection embedding of this cohort.
        settings: what is aligned and how many are looked at closely.
    """

    def __init__(self, references: References, network: CopyEmbedding, settings: AuditSettings) -> None:
        self.references, self.settings = references, settings
        self._sigma, self._network = settings.flat_field_sigma, network
        self._vectors = embed_flat(network, references.images, settings)
        groups = torch.from_numpy(references.groups)
        self._columns = [torch.nonzero(groups == g).flatten() for g in range(references.num_folds + 1)]
        self._patients = torch.from_numpy(references.patients)

    @torch.inference_mode()
    def search(self, images: torch.Tensor, own_patient: Ints | None = None) -> Found:
        """Return what is found about (n, 1, h, w) images in [-1, 1].

        Args:
            images: queries at the search size.
            own_patient: patient codes whose images are left out for a query (real queries), else none.
        """
        own = torch.full((len(images),), NO_PATIENT) if own_patient is None else torch.from_numpy(own_patient)
        settings = self.settings
        coarse, fine = alignments(settings)
        block = search_block(len(self.references.rows))
        found: dict[str, list[Neighbours]] = {view: [] for view in VIEWS}
        blend: list[torch.Tensor] = []
        with track("search", 3 * len(images), unit="looks") as progress:
            vectors = embed_flat(self._network, images, settings)
            for first, rough in coarse_similarity(images, self.references.images, coarse, block=block):
                part = slice(first, first + len(rough))
                barred = own[part, None] == self._patients[None, :]
                pairs = self._shortlist(rough, barred)
                exact = aligned_similarity(images[part], self.references.images, pairs, fine)
                found["correlation"].append(self._nearest(exact, pairs, barred))
                cosine = vectors[part] @ self._vectors.T
                pairs = self._shortlist(cosine, barred)
                found["embedding"].append(self._nearest(cosine.gather(1, pairs), pairs, barred))
                progress.update(len(rough))
            halves = half_similarity(images, self.references.images, sigma=self._sigma, block=block)
            for first, by_half in halves:
                found["halves"].append(self._by_halves(by_half, own[first : first + block]))
                progress.update(len(own[first : first + block]))
            pairs_of = blend_isolation(
                images,
                self.references.images,
                patients=self._patients,
                in_train=torch.from_numpy(self.references.in_train),
                own=own,
                sigma=self._sigma,
                shortlist=settings.blend_shortlist,
                least=FLOOR,
            )
            for _, isolation in pairs_of:
                blend.append(isolation)
                progress.update(len(isolation))
        views = {view: _join(parts) for view, parts in found.items()}
        return Found(views, torch.cat(blend).numpy())

    def _by_halves(self, by_half: dict[str, torch.Tensor], own: torch.Tensor) -> Neighbours:
        """Return for each query the neighbours of the half in which one patient stands out most.

        The gap that chooses the half knows no sides, so that the side of that half is as fair a coin.
        """
        barred = own[:, None] == self._patients[None, :]
        halves = []
        for name in HALVES:
            pairs = self._shortlist(by_half[name], barred)
            halves.append(self._nearest(by_half[name].gather(1, pairs), pairs, barred))
        chosen = np.stack([half.gap for half in halves]).argmin(axis=0)
        here = np.arange(len(chosen))
        fields = Neighbours.__dataclass_fields__
        return Neighbours(
            **{field: np.stack([getattr(half, field) for half in halves])[chosen, here] for field in fields}
        )

    def _shortlist(self, similarity: torch.Tensor, barred: torch.Tensor) -> torch.Tensor:
        """Return the rows of the most similar references, equally many of each fold and the holdout."""
        allowed = similarity.masked_fill(barred, -FARTHEST)
        wanted = self.settings.shortlist
        picks = [c[allowed[:, c].topk(min(wanted, len(c)), dim=1).indices] for c in self._columns]
        return torch.cat(picks, dim=1)

    def _nearest(self, similarity: torch.Tensor, pairs: torch.Tensor, barred: torch.Tensor) -> Neighbours:
        measured = (1.0 - similarity.double()).clamp(FLOOR, FARTHEST)
        distance: Floats = measured.masked_fill(barred.gather(1, pairs), FARTHEST).numpy()
        rows = pairs.numpy()
        here = np.arange(len(rows))
        in_train = self.references.in_train[rows]
        patients = self.references.patients[rows]
        groups = self.references.groups[rows]

        def nearest_of(chosen: Bools) -> Floats:
            return np.where(chosen, distance, FARTHEST)

        train = nearest_of(in_train)
        best_train = train.argmin(axis=1)
        other = patients != patients[here, best_train][:, None]
        best = distance.argmin(axis=1)
        patient = patients[here, best]
        second = nearest_of(patients != patient[:, None]).min(axis=1)
        folds = [nearest_of(groups == fold).min(axis=1) for fold in range(self.references.num_folds)]
        return Neighbours(
            train=train[here, best_train],
            train_row=rows[here, best_train].astype(np.int64),
            holdout=nearest_of(~in_train).min(axis=1),
            rest=nearest_of(other).min(axis=1),
            folds=np.stack(folds, axis=1),
            gap=np.log(distance[here, best]) - np.log(second),
            side=in_train[here, best],
            patient=patient,
        )


def _join(parts: list[Neighbours]) -> Neighbours:
    names = Neighbours.__dataclass_fields__
    return Neighbours(**{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})
