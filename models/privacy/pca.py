"""Principal components in which two images of one source remain similar if fine detail is generated anew."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from models.devices import choices, to_device

LARGEST_SIDE = 32
"""Largest image side, in pixels, for components: structure that survives heavy noise is coarser."""
LEAST_KEPT = 0.35
LEAST = 8


@dataclass(frozen=True)
class Components:
    """A linear map to features whose cosine similarity shows whether two images have the same source.

    A model that noises and denoises an image keeps the structure that varies more between images than the
    noise, and generates the rest anew. If images are Gaussian with variance v along a component, and the
    noise has variance s^2, the share a = v / (v + s^2) of the component is kept. Components below
    `LEAST_KEPT` are dropped; the others are weighted by sqrt(a) / (v + s^2)^(1/4).

    This weighting is half-way between pixels, where few components dominate, and whitened components, where
    all count equally, including those that a model gets wrong. Both of these were measured to identify fewer
    sources.

    Attributes:
        size: (h, w) to which images are averaged first.
        mean: (d,) mean of the images.
        basis: (d, k) weighted components.
    """

    size: tuple[int, int]
    mean: Tensor
    basis: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Map (N, 1, H, W) images in [-1, 1] to (N, k) unit vectors."""
        return F.normalize((rows_of(images, self.size) - self.mean) @ self.basis, dim=1)

    def to(self, device: torch.device) -> Components:
        """Return the map for images on a device."""
        return replace(self, mean=to_device(self.mean, device), basis=to_device(self.basis, device))


def principal_components(images: Tensor, noise: float) -> Components:
    """Return the components of images that survive noise of a given strength.

    Args:
        images: (N, 1, H, W) in [-1, 1].
        noise: standard deviation of the noise, in the images' range.

    Raises:
        ValueError: fewer than two images, or `noise` is not positive.
    """
    found = spectrum(images, noise)
    variance, vectors = found.variance, found.vectors
    kept = variance / (variance + noise**2)
    count = max(int((kept > LEAST_KEPT).sum()), min(LEAST, len(kept)))
    weight = (kept.sqrt() * (variance + noise**2) ** -0.25)[:count]
    basis = (vectors[:, :count] * weight).float()
    return Components(found.size, found.mean, to_device(basis, images.device))


@dataclass(frozen=True)
class Spectrum:
    """All principal components of images.

    Attributes:
        size: (h, w) of the averaged images.
        mean: (d,) mean of the images, on their device.
        variance: (d,) variances in descending order, float64 on the CPU.
        vectors: (d, d) components in columns, float64 on the CPU.
    """

    size: tuple[int, int]
    mean: Tensor
    variance: Tensor
    vectors: Tensor


def spectrum(images: Tensor, noise: float) -> Spectrum:
    """Return all components of images (N, 1, H, W); `noise` is only validated.

    Raises:
        ValueError: fewer than two images, or `noise` is not positive.
    """
    if len(images) < 2:
        raise ValueError(f"images must hold at least 2 images, got {len(images)}")
    if not noise > 0:
        raise ValueError(f"noise must be positive, got {noise}")
    size = component_size(images)
    rows = rows_of(images, size)
    mean = rows.mean(dim=0)
    centred = rows - mean
    # In float32, small variances would be rounding errors: a device without float64 leaves this to the CPU.
    narrow = choices(rows.device).wide is not torch.float64
    centred = centred.cpu().double() if narrow else centred.double()
    variance, vectors = torch.linalg.eigh((centred.T @ centred / len(rows)).cpu())
    return Spectrum(size, mean, variance.flip(0).clamp_min(0.0), vectors.flip(1))


def component_size(images: Tensor) -> tuple[int, int]:
    """Return the (h, w) to which images (N, 1, H, W) are averaged for their components."""
    height, width = images.shape[-2:]
    shrink = min(1.0, LARGEST_SIDE / max(height, width))
    return max(1, round(height * shrink)), max(1, round(width * shrink))


def rows_of(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the pixels (N, h x w) of images (N, 1, H, W), averaged to `size` (h, w)."""
    if tuple(images.shape[-2:]) != size:
        images = F.interpolate(images, size=size, mode="area")
    return images.flatten(1)
