"""The attacks without the model: a scan counts as a member if a released image is close to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from models.devices import default_device, to_device
from models.privacy.matching import aligned_similarity, coarse_similarity
from models.privacy.pca import Components
from pipeline.arrays import Ints
from pipeline.privacy.membership.attack import Scores
from pipeline.privacy.search.neighbours import FLOOR, search_block
from pipeline.privacy.search.pixel_views import alignments
from pipeline.privacy.settings import AuditSettings
from pipeline.progress import track
from pipeline.wording.privacy import RELEASE

SHORTLIST = 8


@dataclass(frozen=True)
class Held:
    """Data of an attacker without the model, on the computing device.

    Attributes:
        scans: (n, 1, h, w) in [-1, 1] at the search size.
        released: (m, 1, h, w) in [-1, 1] at the search size.
        components: components of train and holdout together.
        settings: settings of the audit.
        block: number of scans that are compared with all released images at a time.
        done: called with the number of scans after each comparison.
    """

    scans: torch.Tensor
    released: torch.Tensor
    components: Components
    settings: AuditSettings
    block: int
    done: Callable[[int], None]


def by_pixels(held: Held) -> torch.Tensor:
    """Return the correlation (n,) of each scan with the released image that fits it best, aligned."""
    coarse, fine = alignments(held.settings)
    found = []
    for first, rough in coarse_similarity(held.scans, held.released, coarse, block=held.block):
        part = held.scans[first : first + len(rough)]
        pairs = rough.topk(min(SHORTLIST, len(held.released)), dim=1).indices
        found.append(aligned_similarity(part, held.released, pairs, fine).amax(dim=1))
        held.done(len(rough))
    return torch.cat(found)


def by_components(held: Held) -> torch.Tensor:
    """Return the cosine (n,) of each scan with the released image of the most similar coarse structure."""
    ours, theirs = held.components(held.scans), held.components(held.released)
    found = []
    for part in ours.split(held.block):
        found.append((part @ theirs.T).amax(dim=1))
        held.done(len(part))
    return torch.cat(found)


RELEASE_ATTACKS: dict[str, Callable[[Held], torch.Tensor]] = {
    "correlation": by_pixels,
    "components": by_components,
}
"""Name in a privacy report, after `release_` -> similarity (n,) of each scan to its nearest released image,
at most 1, in the order of the rows.

The copy embedding is not among them. It is trained on train scans and pushes them apart, so members look
farther from a release than they are. The components are fitted without knowing the sides."""


@torch.inference_mode()
def release_scores(
    rows: Ints, scans: torch.Tensor, released: torch.Tensor, components: Components, settings: AuditSettings
) -> Scores:
    """Score scans by the similarity to their nearest released image, with each of `RELEASE_ATTACKS`.

    Args:
        rows: (n,) cohort rows of the scans, ascending.
        scans: (n, 1, h, w) in [-1, 1] at the search size.
        released: (m, 1, h, w), as the scans.
        components: principal components of train and holdout together.
        settings: settings of the audit.
    """
    device = default_device()
    scans, released = to_device(scans, device), to_device(released, device)
    with track("attack on the release", len(scans) * len(RELEASE_ATTACKS), unit="scans") as progress:
        held = Held(scans, released, components.to(device), settings, search_block(released), progress.update)
        nearest = torch.stack([attack(held) for attack in RELEASE_ATTACKS.values()], dim=1).cpu().double()
    closeness = -(1.0 - nearest).clamp_min(FLOOR).log()
    columns = {f"{RELEASE}{name}": (place,) for place, name in enumerate(RELEASE_ATTACKS)}
    return Scores(rows, closeness.numpy(), columns)
