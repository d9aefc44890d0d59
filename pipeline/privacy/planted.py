"""Copies of train images in known disguises: what the gate's recall and power are measured on."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from models.matching import warp
from pipeline.privacy.references import Ints, References

PLAIN_KINDS = ("exact", "mirrored", "gamma_0.7", "shifted_2px", "resampled_5pct")
"""Disguises that the gate must see through; recall over them is held against `min_planted_recall`."""
OTHER_KINDS = ("noise_5pct", "blurred", "rotated_5deg", "half_composite", "blend_50pct")
POWER_KINDS = (*PLAIN_KINDS, "noise_5pct", "blurred", "rotated_5deg")
KINDS = (*PLAIN_KINDS, *OTHER_KINDS)


def plant(
    references: References, per_kind: int, rng: np.random.Generator
) -> tuple[torch.Tensor, list[str], Ints]:
    """Disguise copies of train images, other sources for each kind as far as train suffices.

    Returns:
        images (n, 1, h, w) in [-1, 1] rounded to 8 bits, the kind of each, and the row of its source.
    """
    train = np.flatnonzero(references.in_train)
    per_kind = min(per_kind, len(train))
    order = rng.permutation(train)
    if len(order) < per_kind * len(KINDS):
        order = np.concatenate([rng.permutation(train)[:per_kind] for _ in KINDS])
    generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
    parts, kinds, sources = [], [], []
    for i, kind in enumerate(KINDS):
        rows = order[i * per_kind : (i + 1) * per_kind]
        parts.append(disguise(references.images[torch.from_numpy(rows)], kind, generator))
        kinds += [kind] * per_kind
        sources.append(rows)
    return torch.cat(parts), kinds, np.concatenate(sources).astype(np.int64)


def disguise(images: torch.Tensor, kind: str, generator: torch.Generator) -> torch.Tensor:
    """Return disguised copies of (n, 1, h, w) images in [-1, 1], rounded to 8 bits as a stored copy would be.

    Raises:
        ValueError: `kind` is not one of KINDS.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    makers: dict[str, Callable[[], torch.Tensor]] = {
        "exact": lambda: images,
        "mirrored": lambda: images.flip(-1),
        "gamma_0.7": lambda: ((images + 1) / 2).clamp_min(0) ** 0.7 * 2 - 1,
        "shifted_2px": lambda: _shift(images, 2),
        "resampled_5pct": lambda: warp(images, flip=False, scale=1.05, rotation=0.0),
        "noise_5pct": lambda: images + 0.1 * torch.randn(images.shape, generator=generator),
        "blurred": lambda: F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1),
        "rotated_5deg": lambda: warp(images, flip=False, scale=1.0, rotation=5.0),
        "half_composite": lambda: _left_half_of(images.roll(1, dims=0), images),
        "blend_50pct": lambda: 0.5 * (images + images.roll(1, dims=0)),
    }
    return ((makers[kind]().clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def _left_half_of(ours: torch.Tensor, theirs: torch.Tensor) -> torch.Tensor:
    """Put the left half of one image beside the right half of another."""
    middle = ours.shape[-1] // 2
    return torch.cat([ours[..., :middle], theirs[..., middle:]], dim=-1)


def _shift(images: torch.Tensor, pixels: int) -> torch.Tensor:
    """Move images by `pixels` down and to the left, edges repeated."""
    padded = F.pad(images, (pixels,) * 4, mode="replicate")
    height, width = images.shape[-2:]
    return padded[..., :height, 2 * pixels : 2 * pixels + width]
