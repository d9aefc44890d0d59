"""Ways to see a copy: as a whole, by what is learnt of copies, by halves, by coarse structure, as a blend."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch

from models.components import principal_components
from models.copy_embedding import CopyEmbedding, embed
from models.matching import (
    Alignments,
    aligned_similarity,
    coarse_similarity,
    flat_field,
    noise_gain,
    noise_variance,
)
from models.partial_copies import HALVES, blend_isolation, half_similarity
from models.precision import default_device
from pipeline.privacy.neighbours import (
    FLOOR,
    NO_PATIENT,
    Floats,
    Neighbours,
    Sides,
    join,
    nearest_features,
    search_block,
)
from pipeline.privacy.references import Bools, Ints, References
from pipeline.privacy.settings import AuditSettings
from pipeline.progress import track

VIEWS = ("correlation", "embedding", "halves", "components")
BLEND = "blend"
"""Not a view of neighbours: what explains a blend is a pair of images, which lies on no one side."""


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
    sigma, reach = settings.flat_field_sigma, settings.max_shift
    coarse = Alignments(reach, settings.coarse_scales, settings.coarse_rotations, sigma=sigma)
    return coarse, Alignments(reach, settings.scales, settings.rotations, sigma=sigma)


def embed_flat(network: CopyEmbedding, images: torch.Tensor, settings: AuditSettings) -> torch.Tensor:
    """Return the copy embedding (n, d) of (n, 1, h, w) images in [-1, 1], flat-fielded first."""
    return embed(network, images, lambda batch: flat_field(batch, sigma=settings.flat_field_sigma))


class Views:
    """Searches train and holdout alike in every view.

    Args:
        references: the real images.
        network: the copy-detection embedding of this cohort.
        settings: what is aligned and how many are looked at closely.
        device: where is searched; None is the accelerator if there is one.
    """

    def __init__(
        self,
        references: References,
        network: CopyEmbedding,
        settings: AuditSettings,
        device: torch.device | None = None,
    ) -> None:
        self.references, self.settings = references, settings
        self._device = device or default_device()
        self._images = references.images.to(self._device)
        self._sigma, self._network = settings.flat_field_sigma, copy.deepcopy(network).to(self._device)
        self._vectors = embed_flat(self._network, self._images, settings)
        # Of both sides alike: components of train alone would describe train better.
        self._components = principal_components(self._images, settings.component_noise)
        self._structure = self._components(self._images)
        detail = noise_variance(self._images)
        self._texture = float(detail.quantile(settings.texture_quantile))
        self._patients = torch.from_numpy(references.patients).to(self._device)
        self._in_train = torch.from_numpy(references.in_train).to(self._device)
        self._sides = Sides(
            references.patients,
            references.in_train,
            references.groups,
            shortlist=settings.shortlist,
            device=self._device,
        )

    @torch.inference_mode()
    def search(self, images: torch.Tensor, own_patient: Ints | None = None) -> Found:
        """Return what is found about (n, 1, h, w) images in [-1, 1].

        Args:
            images: queries at the search size.
            own_patient: patient codes whose images are left out for a query (real queries), else none.
        """
        own = torch.full((len(images),), NO_PATIENT) if own_patient is None else torch.from_numpy(own_patient)
        own, images, references = own.to(self._device), images.to(self._device), self._images
        settings = self.settings
        coarse, fine = alignments(settings)
        block = search_block(len(references))
        found: dict[str, list[Neighbours]] = {view: [] for view in VIEWS}
        blend: list[torch.Tensor] = []
        with track("search", 3 * len(images), unit="looks") as progress:
            vectors = embed_flat(self._network, images, settings)
            for first, rough in coarse_similarity(images, references, coarse, block=block):
                part = slice(first, first + len(rough))
                barred = self._sides.barred(own[part])
                pairs = self._sides.shortlist(rough, barred)
                exact = aligned_similarity(images[part], references, pairs, fine)
                exact = (exact * noise_gain(images[part], self._texture, fine)[:, None]).clamp(-1.0, 1.0)
                found["correlation"].append(self._sides.nearest(exact, pairs, barred))
                progress.update(len(rough))
            found["embedding"].append(nearest_features(vectors, self._vectors, self._sides, own))
            coarser = self._components(images)
            found["components"].append(nearest_features(coarser, self._structure, self._sides, own))
            halves = half_similarity(images, references, sigma=self._sigma, block=block)
            for first, by_half in halves:
                found["halves"].append(self._by_halves(by_half, own[first : first + block]))
                progress.update(len(own[first : first + block]))
            pairs_of = blend_isolation(
                images,
                references,
                patients=self._patients,
                in_train=self._in_train,
                own=own,
                sigma=self._sigma,
                shortlist=settings.blend_shortlist,
                least=FLOOR,
            )
            for _, isolation in pairs_of:
                blend.append(isolation)
                progress.update(len(isolation))
        views = {view: join(parts) for view, parts in found.items()}
        return Found(views, torch.cat(blend).cpu().numpy())

    def _by_halves(self, by_half: dict[str, torch.Tensor], own: torch.Tensor) -> Neighbours:
        """Return for each query the neighbours of the half in which one patient stands out most.

        The gap that chooses the half knows no sides, so that the side of that half is as fair a coin.
        """
        halves = [self._sides.of_similarity(by_half[name], own) for name in HALVES]
        chosen = np.stack([half.gap for half in halves]).argmin(axis=0)
        here = np.arange(len(chosen))
        fields = Neighbours.__dataclass_fields__
        return Neighbours(
            **{field: np.stack([getattr(half, field) for half in halves])[chosen, here] for field in fields}
        )
