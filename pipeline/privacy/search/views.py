"""Views that detect copies: whole image, learned embedding, halves, coarse structure, and blends."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch

from models.devices import default_device, to_device
from models.privacy.copy_embedding import CopyEmbedding, embed
from models.privacy.denoised_copies import redraw, spacing
from models.privacy.matching import flat_field, noise_variance
from models.privacy.pca import principal_components
from pipeline.arrays import Bools, Floats, Ints
from pipeline.privacy.search.neighbours import NO_PATIENT, Neighbours, join, nearest_features, search_block
from pipeline.privacy.search.pixel_views import LOOKS, PixelSearch, most_telling
from pipeline.privacy.search.references import References
from pipeline.privacy.settings import AuditSettings
from pipeline.progress import track

COMPONENT_NOISE = 0.3
"""Noise, in a range of 2, below which structure counts as generated anew by a model."""
TEXTURE_QUANTILE = 0.75
"""Fine detail above this quantile of the real images counts as noise that hides a copy."""
VIEWS = ("correlation", "embedding", "halves", "components")
BLEND = "blend"
"""Not a view of neighbours: a blend is explained by a pair of images, which may be of both sides."""
REDRAWN, REDRAWN_PARTS = "redrawn", ("spacing", "likelihood")
"""Not a view of neighbours either: the nearest train patient is compared with all other patients together,
and with the likelihood of a new image."""


@dataclass(frozen=True)
class Found:
    """Search results of n queries.

    Attributes:
        views: view -> nearest real images.
        blend: (n,) how far the best pair of train images stands out in explaining the query as their blend:
            log distance of that pair minus that of the best pair that contains neither image; very negative
            for a blend.
        redrawn: (n, 2) statistics `REDRAWN_PARTS` of whether a model made the query from a noised train
            image; the lower, the likelier.
    """

    views: dict[str, Neighbours]
    blend: Floats
    redrawn: Floats

    def __len__(self) -> int:
        return len(self.blend)

    def take(self, rows: Ints | Bools | slice) -> Found:
        """Return the results of some queries."""
        views = {view: own.take(rows) for view, own in self.views.items()}
        return Found(views, self.blend[rows], self.redrawn[rows])


def join_found(parts: list[Found]) -> Found:
    """Return the concatenated search results of all parts."""
    views = {view: join([part.views[view] for part in parts]) for view in parts[0].views}
    blend, redrawn = ([getattr(part, name) for part in parts] for name in ("blend", "redrawn"))
    return Found(views, np.concatenate(blend), np.concatenate(redrawn))


def embed_flat(network: CopyEmbedding, images: torch.Tensor, settings: AuditSettings) -> torch.Tensor:
    """Return the copy embedding (n, d) of (n, 1, h, w) images in [-1, 1], flat-fielded first."""
    return embed(network, images, lambda batch: flat_field(batch, sigma=settings.flat_field_sigma))


class Views:
    """Searches train and holdout in the same way in every view.

    Up to `exhaustive_limit` real images, every query is compared with all of them. Above it, only two small
    feature vectors are, at a thousandth of the cost. The pixel views then compare with the images that one of
    the two vectors ranks first, the same number from each fold and from the holdout.

    Args:
        references: the real images.
        network: the copy-detection embedding of this cohort.
        settings: alignments and sizes of the shortlists.
        device: device of the search; None is the accelerator if there is one.
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
        images = to_device(references.images, self._device)
        self._network = copy.deepcopy(network).to(self._device, non_blocking=True)
        self._vectors = embed_flat(self._network, images, settings)
        # Fitted to both sides: components of train alone would describe train better.
        self._components = principal_components(images, COMPONENT_NOISE)
        self._structure = self._components(images)
        self._redraw = redraw(images, COMPONENT_NOISE)
        self._known = self._redraw.known(images)
        self._patients = to_device(torch.from_numpy(references.patients), self._device)
        codes = np.arange(references.patients.max() + 1)
        trained = np.isin(codes, references.patients[references.in_train])
        self._trained = to_device(torch.from_numpy(trained), self._device)
        detail = noise_variance(images)
        self._pixels = PixelSearch(
            images,
            references.patients,
            references.in_train,
            references.groups,
            settings,
            float(detail.quantile(TEXTURE_QUANTILE)),
        )
        self._sides = self._pixels.sides()

    @torch.inference_mode()
    def search(self, images: torch.Tensor, own_patient: Ints | None = None) -> Found:
        """Return the search results of images.

        Args:
            images: (n, 1, h, w) queries in [-1, 1] at the search size.
            own_patient: (n,) code of the patient whose images are excluded for each query; None for none.
        """
        own = torch.full((len(images),), NO_PATIENT) if own_patient is None else torch.from_numpy(own_patient)
        own, images = to_device(own, self._device), to_device(images, self._device)
        vectors, structure = embed_flat(self._network, images, self.settings), self._components(images)
        with track("search", LOOKS * len(images), unit="looks") as progress:
            if len(self.references.rows) <= self.settings.exhaustive_limit:
                pixels = self._pixels.search(images, own, progress)
            else:
                listed = self.near_rows(vectors, structure, own)
                pixels = self._pixels.search_near(images, own, listed, progress)
        embedding = nearest_features(vectors, self._vectors, self._sides, own)
        components = nearest_features(structure, self._structure, self._sides, own)
        redrawn = self._redrawn(images, own)
        # All work is queued on the device by now: the host waits for it once.
        views = {
            "correlation": pixels.correlation.neighbours(),
            "embedding": embedding.neighbours(),
            "halves": most_telling([half.neighbours() for half in pixels.halves]),
            "components": components.neighbours(),
        }
        return Found(views, *(values.cpu().double().numpy() for values in (pixels.blend, redrawn)))

    def _redrawn(self, images: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
        """Return (n, 2) how the nearest train patient compares with the others and with a new image."""
        trained, block = self._trained, search_block(self._known)
        parts = []
        for first in range(0, len(images), block):
            part = slice(first, first + block)
            noised, as_new = self._redraw.undone(images[part])
            likely = self._redraw.log_likelihood(noised, self._known)
            likely = likely.masked_fill(self._sides.barred(own[part]), -torch.inf)
            patients = likely.new_full((len(likely), len(trained)), -torch.inf)
            patients.scatter_reduce_(1, self._patients.expand(len(likely), -1), likely, "amax")
            best, which = patients.masked_fill(~trained, -torch.inf).max(dim=1)
            others = patients.scatter(1, which[:, None], -torch.inf)
            stands_out = spacing(others, best)
            parts.append(-torch.stack([stands_out, best - as_new], dim=1))
        return torch.cat(parts)

    def near_rows(self, vectors: torch.Tensor, structure: torch.Tensor, own: torch.Tensor) -> Ints:
        """Return the rows (n, k) that embedding (n, d) and components (n, e) rank first in each fold."""
        wanted, block = self.settings.index_shortlist, search_block(self._vectors)
        parts = []
        for first in range(0, len(own), block):
            part = slice(first, first + block)
            barred = self._sides.barred(own[part])
            both = ((vectors, self._vectors), (structure, self._structure))
            rows = [self._sides.shortlist(q[part] @ r.T, barred, wanted) for q, r in both]
            parts.append(torch.cat(rows, dim=1))
        found: Ints = torch.cat(parts).cpu().numpy()
        return found
