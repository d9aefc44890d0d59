"""Agreement of two views on the source patient, which copies show and noise or sharpness alone does not."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations

import numpy as np

from pipeline.arrays import Bools, Floats, Ints
from pipeline.privacy.search.neighbours import Neighbours

AGREEMENT = "agreement"
"""Name of the agreement, which is not a view of its own but is derived from all views."""
LEAST_UNIT = 1e-3


@dataclass(frozen=True)
class Agreed:
    """How far n queries stand out in two views that name the same nearest patient.

    Attributes:
        gap: (n,) the weaker of the log gaps of both views, each in units of its view, for the two views that
            stand out most; 0 if no two views name the same patient, very negative for a copy.
        side: (n,) whether that patient is in train.
        patient: (n,) code of that patient.
    """

    gap: Floats
    side: Bools
    patient: Ints


def units_of(control: dict[str, Neighbours]) -> dict[str, float]:
    """Return the median log gap of the real images in every view, the unit that makes views comparable."""
    return {view: max(LEAST_UNIT, -float(np.median(own.gap))) for view, own in control.items()}


def agreed(found: dict[str, Neighbours], units: dict[str, float]) -> Agreed:
    """Return how far queries stand out in two views at once.

    A noisy or sharp image can be much nearer to one patient than to all others in one view, because of what
    that view measures. That another view then names the same patient among thousands is a coincidence.

    Args:
        found: view -> neighbours of the queries.
        units: view -> unit, as returned by `units_of`.
    """
    first = next(iter(found.values()))
    gap, side, patient = np.zeros(len(first.gap)), first.side.copy(), first.patient.copy()
    for one, other in combinations(found, 2):
        weaker = np.maximum(found[one].gap / units[one], found[other].gap / units[other])
        further = (found[one].patient == found[other].patient) & (weaker < gap)
        gap[further] = weaker[further]
        side[further], patient[further] = found[one].side[further], found[one].patient[further]
    return Agreed(gap, side, patient)
