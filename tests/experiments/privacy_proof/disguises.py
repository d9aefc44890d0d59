"""Disguises of copies, drawn anew: one to three alterations of different families, each of random strength.

Half of the kinds of each family are `SEEN`: what is trained or tuned may use them. The other half are not,
so that the recall on them says what a disguise that nobody thought of would meet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.privacy.gate.planted_copies import as_stored
from tests.experiments.privacy_proof import alterations
from tests.experiments.privacy_proof.alterations import integer

Make = Callable[[Tensor, Tensor, torch.Generator], Tensor]
"""(n, 1, h, w) images in [-1, 1], as many other images, and a random generator -> altered images."""

FAMILIES = ("mixture", "geometry", "grey values", "occlusion", "resolution")
"""In the order in which they are applied."""


@dataclass(frozen=True)
class Kind:
    """One alteration.

    Attributes:
        family: one of `FAMILIES`; a disguise has at most one kind of each.
        seen: whether what is trained or tuned may use it.
        make: alters images, each with a strength of its own.
    """

    family: str
    seen: bool
    make: Make


@dataclass(frozen=True)
class Disguised:
    """Disguised copies.

    Attributes:
        images: (n, 1, h, w) in [-1, 1], rounded to 8 bits like stored ones.
        kinds: names of the alterations of each.
    """

    images: Tensor
    kinds: list[tuple[str, ...]]


def disguised(
    images: Tensor,
    others: Tensor,
    generator: torch.Generator,
    *,
    kinds: Sequence[str],
) -> Disguised:
    """Disguise each image by one to `MOST` alterations of different families, all equally likely.

    Args:
        images: (n, 1, h, w) in [-1, 1].
        others: (m, 1, h, w), what is mixed and pasted in; m at least 4.
        generator: random generator on the CPU.
        kinds: names of the alterations to draw from.

    Raises:
        ValueError: no kind is given, or too few other images.
    """
    families = [family for family in FAMILIES if any(KINDS[name].family == family for name in kinds)]
    if not families or len(others) < MIN_OTHERS:
        raise ValueError(f"needs a kind and {MIN_OTHERS} other images, got {kinds} and {len(others)}")
    chosen: list[tuple[str, ...]] = []
    for _ in images:
        count = min(integer(1, MOST, generator), len(families))
        drawn = sorted(torch.randperm(len(families), generator=generator)[:count].tolist())
        chosen.append(tuple(_one_of(kinds, families[place], generator) for place in drawn))
    out = images.clone()
    for name in sorted({name for own in chosen for name in own}, key=_order):
        rows = torch.tensor([row for row, own in enumerate(chosen) if name in own])
        mates = others[torch.randint(len(others), (len(rows),), generator=generator)]
        out[rows] = KINDS[name].make(out[rows], mates, generator).clamp(-1, 1)
    return Disguised(as_stored(out), chosen)


def _order(name: str) -> tuple[int, str]:
    return FAMILIES.index(KINDS[name].family), name


def _one_of(kinds: Sequence[str], family: str, generator: torch.Generator) -> str:
    own = [name for name in kinds if KINDS[name].family == family]
    return own[integer(0, len(own) - 1, generator)]


KINDS: dict[str, Kind] = {
    "half of another": Kind("mixture", True, alterations.halved),
    "blend of two": Kind("mixture", True, alterations.blended),
    "blend of three": Kind("mixture", False, alterations.blended_of_three),
    "two quarters of others": Kind("mixture", False, alterations.quartered),
    "mirrored": Kind("geometry", True, alterations.mirrored),
    "rotated": Kind("geometry", True, alterations.rotated),
    "stretched": Kind("geometry", True, alterations.stretched),
    "cropped": Kind("geometry", True, alterations.cropped),
    "upside down": Kind("geometry", False, alterations.upside_down),
    "shifted": Kind("geometry", False, alterations.shifted),
    "sheared": Kind("geometry", False, alterations.sheared),
    "deformed": Kind("geometry", False, alterations.deformed),
    "in perspective": Kind("geometry", False, alterations.in_perspective),
    "gamma": Kind("grey values", True, alterations.gamma),
    "window": Kind("grey values", True, alterations.window),
    "negative": Kind("grey values", True, alterations.negative),
    "gradient": Kind("grey values", True, alterations.gradient),
    "S-curve": Kind("grey values", False, alterations.s_curve),
    "any curve": Kind("grey values", False, alterations.any_curve),
    "posterised": Kind("grey values", False, alterations.posterised),
    "local contrast": Kind("grey values", False, alterations.local_contrast),
    "vignette": Kind("grey values", False, alterations.vignetted),
    "region erased": Kind("occlusion", True, alterations.erased),
    "region of another": Kind("occlusion", True, alterations.pasted),
    "soft region of another": Kind("occlusion", False, alterations.pasted_softly),
    "patch of noise": Kind("occlusion", False, alterations.noise_patch),
    "marker": Kind("occlusion", False, alterations.marked),
    "frame": Kind("occlusion", True, alterations.framed),
    "noise": Kind("resolution", True, alterations.noisy),
    "blur": Kind("resolution", True, alterations.blurred),
    "JPEG": Kind("resolution", True, alterations.jpeg),
    "speckle": Kind("resolution", False, alterations.speckled),
    "coarse": Kind("resolution", False, alterations.coarse),
    "salt and pepper": Kind("resolution", False, alterations.salted),
}
SEEN, UNSEEN = ([name for name, kind in KINDS.items() if kind.seen is seen] for seen in (True, False))
MIN_OTHERS, MOST = 4, 3
"""Smallest number of other images, and largest number of alterations of one image."""
