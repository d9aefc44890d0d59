"""Copies of train images with known alterations, on which the gate's recall and power are measured."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F

from models.privacy.matching import warp
from pipeline.arrays import Ints
from pipeline.privacy.search.references import References

Make = Callable[[torch.Tensor, torch.Generator], torch.Tensor]


@dataclass(frozen=True)
class Disguise:
    """One alteration of a copy.

    Attributes:
        family: name shared by disguises that differ only in strength.
        strength: strength of the alteration, in the unit of its name.
        make: (n, 1, h, w) images in [-1, 1] and a random generator -> altered images.
    """

    family: str
    strength: float
    make: Make


def _gamma(images: torch.Tensor, _: torch.Generator, *, gamma: float) -> torch.Tensor:
    return ((images + 1) / 2).clamp_min(0) ** gamma * 2 - 1


def _window(images: torch.Tensor, _: torch.Generator, *, share: float) -> torch.Tensor:
    """Narrow the display window by `share` of the range and move it down by a quarter of that."""
    return (images + share / 2) / (1 - share)


def _rotated(images: torch.Tensor, _: torch.Generator, *, degrees: float) -> torch.Tensor:
    return warp(images, flip=False, scale=1.0, rotation=degrees)


def _cropped(images: torch.Tensor, _: torch.Generator, *, share: float) -> torch.Tensor:
    """Crop the middle `share` of each side and enlarge it to the full size."""
    return warp(images, flip=False, scale=1.0 / share, rotation=0.0)


def _shifted(images: torch.Tensor, _: torch.Generator, *, share: float) -> torch.Tensor:
    """Shift images down and to the left by a share of their longer side; edges are replicated."""
    height, width = images.shape[-2:]
    pixels = max(1, round(share * max(height, width)))
    padded = F.pad(images, (pixels,) * 4, mode="replicate")
    return padded[..., :height, 2 * pixels : 2 * pixels + width]


def _noisy(images: torch.Tensor, generator: torch.Generator, *, share: float) -> torch.Tensor:
    """Add Gaussian noise; `share` is its standard deviation divided by the range of 2."""
    return images + 2 * share * torch.randn(images.shape, generator=generator)


def _blurred(images: torch.Tensor, _: torch.Generator, *, times: int) -> torch.Tensor:
    for _pass in range(times):
        images = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="replicate"), 3, stride=1)
    return images


def _jpeg(images: torch.Tensor, _: torch.Generator, *, quality: int) -> torch.Tensor:
    return compressed(images, [quality] * len(images))


def compressed(images: torch.Tensor, qualities: Sequence[int]) -> torch.Tensor:
    """Return (n, 1, h, w) images in [-1, 1] as JPEG files of these qualities (n) hold them."""
    from PIL import Image

    out = np.empty(images.shape, dtype=np.float32)
    for place, image in enumerate(((images[:, 0].clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).numpy()):
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="JPEG", quality=qualities[place])
        buffer.seek(0)
        with Image.open(buffer) as opened:
            out[place, 0] = np.asarray(opened, dtype=np.float32) / 127.5 - 1
    return torch.from_numpy(out)


def _composite(images: torch.Tensor, _: torch.Generator) -> torch.Tensor:
    """Join the left half of another image with the right half of each image."""
    middle = images.shape[-1] // 2
    return torch.cat([images.roll(1, dims=0)[..., :middle], images[..., middle:]], dim=-1)


def _blend(images: torch.Tensor, _: torch.Generator, *, share: float) -> torch.Tensor:
    """Mix `share` of another image into each image."""
    return (1 - share) * images + share * images.roll(1, dims=0)


DISGUISES: dict[str, Disguise] = {
    "exact": Disguise("exact", 0, lambda images, _: images),
    "mirrored": Disguise("mirrored", 0, lambda images, _: images.flip(-1)),
    "gamma_0.7": Disguise("gamma below 1", 0.3, partial(_gamma, gamma=0.7)),
    "gamma_0.6": Disguise("gamma below 1", 0.4, partial(_gamma, gamma=0.6)),
    "gamma_1.6": Disguise("gamma above 1", 0.6, partial(_gamma, gamma=1.6)),
    "window_20pct": Disguise("window", 20, partial(_window, share=0.2)),
    "shifted_6pct": Disguise("shift", 6, partial(_shifted, share=0.06)),
    "shifted_10pct": Disguise("shift", 10, partial(_shifted, share=0.1)),
    "crop_95pct": Disguise("crop", 5, partial(_cropped, share=0.95)),
    "crop_90pct": Disguise("crop", 10, partial(_cropped, share=0.9)),
    "crop_80pct": Disguise("crop", 20, partial(_cropped, share=0.8)),
    "rotated_5deg": Disguise("rotation", 5, partial(_rotated, degrees=5.0)),
    "rotated_10deg": Disguise("rotation", 10, partial(_rotated, degrees=10.0)),
    "rotated_15deg": Disguise("rotation", 15, partial(_rotated, degrees=15.0)),
    "noise_2pct": Disguise("noise", 2, partial(_noisy, share=0.02)),
    "noise_5pct": Disguise("noise", 5, partial(_noisy, share=0.05)),
    "noise_10pct": Disguise("noise", 10, partial(_noisy, share=0.1)),
    "blurred": Disguise("blur", 1, partial(_blurred, times=1)),
    "blurred_twice": Disguise("blur", 2, partial(_blurred, times=2)),
    "jpeg_30": Disguise("JPEG", 30, partial(_jpeg, quality=30)),
    "half_composite": Disguise("half composite", 0, _composite),
    "blend_30pct": Disguise("blend", 30, partial(_blend, share=0.3)),
    "blend_50pct": Disguise("blend", 50, partial(_blend, share=0.5)),
}
KINDS = tuple(DISGUISES)


def strengths() -> dict[str, dict[str, float]]:
    """Return family -> kind -> strength, ascending, for the families with several strengths."""
    families: dict[str, dict[str, float]] = {}
    for kind, own in DISGUISES.items():
        families.setdefault(own.family, {})[kind] = own.strength
    return {
        family: dict(sorted(kinds.items(), key=lambda kind: kind[1]))
        for family, kinds in families.items()
        if len(kinds) > 1
    }


PLAIN_KINDS = ("exact", "mirrored", "gamma_0.7", "shifted_6pct", "crop_95pct")
"""Disguises that the gate must detect; the recall on them is compared with `min_planted_recall`."""
POWER_KINDS = (*PLAIN_KINDS, "noise_5pct", "blurred", "rotated_5deg")
"""Disguises of the copies with which the power of the dataset tests is measured."""


def plant(
    references: References, per_kind: int, rng: np.random.Generator
) -> tuple[torch.Tensor, list[str], Ints]:
    """Disguise copies of train images, with different sources for each kind if train is large enough.

    Returns:
        Images (n, 1, h, w) in [-1, 1] rounded to 8 bits, the kind of each, and the row of its source.
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
    """Return disguised copies of (n, 1, h, w) images in [-1, 1], rounded to 8 bits like a stored copy.

    Raises:
        ValueError: `kind` is not one of KINDS.
    """
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    return as_stored(DISGUISES[kind].make(images, generator))


def as_stored(images: torch.Tensor) -> torch.Tensor:
    """Return images clipped to [-1, 1] and rounded to 8 bits."""
    return ((images.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1
