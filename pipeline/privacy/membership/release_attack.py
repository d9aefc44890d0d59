"""The attack without the model: a scan is taken for a member if the released images come close to it."""

from __future__ import annotations

import torch

from models.devices import default_device, to_device
from models.privacy.matching import aligned_similarity, coarse_similarity
from models.privacy.pca import Components
from pipeline.privacy.membership.attack import Scores
from pipeline.privacy.search.neighbours import FLOOR, search_block
from pipeline.privacy.search.pixel_views import alignments
from pipeline.privacy.search.references import Ints
from pipeline.privacy.settings import AuditSettings
from pipeline.progress import track

SHORTLIST = 8


@torch.inference_mode()
def release_scores(
    rows: Ints, scans: torch.Tensor, released: torch.Tensor, components: Components, settings: AuditSettings
) -> Scores:
    """Score scans by the released image that comes closest to each, as a whole and in coarse structure.

    The copy embedding has no part in it: it is trained on train scans, which it pushes apart, so that members
    look farther from a release than they are. Components know no sides.

    Args:
        rows: (n,) their cohort rows, rising.
        scans: (n, 1, h, w) in [-1, 1] at the search size; released: (m, 1, h, w).
        components: of train and holdout alike.
        settings: of the audit.
    """
    coarse, fine = alignments(settings)
    device = default_device()
    scans, released, components = to_device(scans, device), to_device(released, device), components.to(device)
    block = search_block(released)
    correlation = []
    with track("attack on the release", len(scans), unit="scans") as progress:
        for first, rough in coarse_similarity(scans, released, coarse, block=block):
            part = scans[first : first + len(rough)]
            pairs = rough.topk(min(SHORTLIST, len(released)), dim=1).indices
            correlation.append(aligned_similarity(part, released, pairs, fine).amax(dim=1))
            progress.update(len(rough))

    ours, theirs = components(scans), components(released)
    cosine = torch.cat([(ours[i : i + block] @ theirs.T).amax(dim=1) for i in range(0, len(ours), block)])
    nearest = torch.stack([torch.cat(correlation), cosine], dim=1).cpu().double()
    closeness = -(1.0 - nearest).clamp_min(FLOOR).log()
    return Scores(rows, closeness.numpy(), {"release_correlation": (0,), "release_components": (1,)})
