"""Whom two views alike take for the source: what a copy shows, and noise or sharpness alone does not."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from pipeline.privacy.search.neighbours import Floats, Neighbours
from pipeline.privacy.search.references import Bools, Ints

AGREEMENT = "agreement"
"""Not a view of neighbours: it is made of all of them."""
LEAST_UNIT = 1e-3


@dataclass(frozen=True)
class Agreed:
    """How far n queries stand out in two views that name the same nearest patient.

    Attributes:
        gap: (n,) the lesser of the log gaps of both views, each in units of its view, for the two views in
            which it is largest; 0 where no two views name one patient, very negative for a copy.
        side: (n,) whether that patient is in train; patient: (n,) its code.
    """

    gap: Floats
    side: Bools
    patient: Ints


def units_of(control: dict[str, Neighbours]) -> dict[str, float]:
    """Return per view the log gap that half of the real images exceed: what makes views comparable."""
    return {view: max(LEAST_UNIT, -float(np.median(own.gap))) for view, own in control.items()}


def agreed(found: dict[str, Neighbours], units: dict[str, float]) -> Agreed:
    """Return how far queries stand out in two views at once.

    An image that is noisy or sharp can lie much nearer to one patient than to all others in one view, by what
    that view takes into account. That another view then names the same patient of thousands is chance.

    Args:
        found: view -> neighbours of the queries.
        units: of the views, as of `units_of`.
    """
    first = next(iter(found.values()))
    gap, side, patient = np.zeros(len(first.gap)), first.side.copy(), first.patient.copy()
    for one, other in combinations(found, 2):
        weaker = np.maximum(found[one].gap / units[one], found[other].gap / units[other])
        further = (found[one].patient == found[other].patient) & (weaker < gap)
        gap[further] = weaker[further]
        side[further], patient[further] = found[one].side[further], found[one].patient[further]
    return Agreed(gap, side, patient)
