"""Exact and perceptual hash matches with train, and duplicates among candidates."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
import torch.nn.functional as F

from models.privacy.matching import unit_rows
from pipeline.arrays import Bools
from pipeline.artifacts.pixels import StoredPixels

HASH_ROWS, HASH_COLUMNS = 16, 16
HASH_BITS = HASH_ROWS * (HASH_COLUMNS - 1)


def pixel_digests(pixels: StoredPixels) -> list[bytes]:
    """Return a 16-byte digest of each image's stored pixels, (n, 1, H, W)."""
    return [
        hashlib.blake2b(np.ascontiguousarray(image).tobytes(), digest_size=16).digest() for image in pixels
    ]


def difference_hash(images: torch.Tensor) -> torch.Tensor:
    """Return the difference hash: the sign of each horizontal difference at 16 x 16 pixels.

    Args:
        images: (n, 1, h, w).

    Returns:
        (n, HASH_BITS) float32 of -1 and +1. The dot product of two hashes is the number of agreeing bits
        minus that of differing bits.
    """
    small = F.interpolate(images, size=(HASH_ROWS, HASH_COLUMNS), mode="area")
    return torch.where(small[..., 1:] > small[..., :-1], 1.0, -1.0).flatten(1)


def hash_matches(
    images: torch.Tensor, references: torch.Tensor, distance: int, *, block: int = 1024
) -> Bools:
    """Return which images, or their mirror images, differ from a reference in at most `distance` bits.

    Args:
        images: (n, 1, h, w).
        references: (M, 1, h, w).
        distance: number of differing bits, of HASH_BITS.
        block: images per block.
    """
    target = difference_hash(references).T.contiguous()
    least = HASH_BITS - 2 * distance
    out = np.zeros(len(images), dtype=bool)
    for first in range(0, len(images), block):
        part = images[first : first + block]
        for variant in (part, part.flip(-1)):
            agreeing = (difference_hash(variant) @ target).amax(dim=1)
            out[first : first + block] |= (agreeing >= least).numpy()
    return out


def duplicates(images: torch.Tensor, similarity: float, sigma: float, *, block: int = 1024) -> Bools:
    """Return which images duplicate an earlier one: correlation without alignment of at least `similarity`.

    Args:
        images: (n, 1, h, w) in [-1, 1]; the first image of a pair is kept.
        similarity: zero-mean normalised correlation. Two constant images count as equal.
        sigma: blur in pixels whose low frequencies are excluded from the comparison.
        block: images per block; memory is block x n.
    """
    rows = unit_rows(images, sigma)
    constant = rows.abs().amax(dim=1) == 0
    out = np.zeros(len(images), dtype=bool)
    for first in range(0, len(rows), block):
        part = rows[first : first + block]
        score = part @ rows[: first + len(part)].T
        earlier = torch.arange(score.shape[1])[None, :] < (torch.arange(len(part)) + first)[:, None]
        out[first : first + len(part)] = ((score >= similarity) & earlier).any(dim=1).numpy()
    blank = np.flatnonzero(constant.numpy())
    out[blank[1:]] = True
    return out
