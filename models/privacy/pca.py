"""Principal components in which two images of one source stay alike, whatever fine detail was drawn anew."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from models.devices import choices, to_device

LARGEST_SIDE = 32
"""Components are taken of images of this size at most: what survives heavy noise is coarser still."""
LEAST_KEPT = 0.35
LEAST = 8


@dataclass(frozen=True)
class Components:
    """A linear map to features whose cosine says whether two images have one source.

    A model that noises an image and denoises it again keeps what varies between images by more than the
    noise, and draws the rest anew. Where images are Gaussian with variance v along a component, and the noise
    has variance s^2, the share a = v / (v + s^2) of it is kept: components below `LEAST_KEPT` are left out,
    the others are weighed by sqrt(a) / (v + s^2)^(1/4). That is half-way between pixels (where few components
    decide) and whitened components (where all count alike, also those that a model gets wrong); both were
    measured to name fewer sources.

    Attributes:
        size: (h, w) of the images it is applied to, after averaging.
        mean: (d,) of the images; basis: (d, k) components, each weighed as told above.
    """

    size: tuple[int, int]
    mean: Tensor
    basis: Tensor

    def __call__(self, images: Tensor) -> Tensor:
        """Map (N, 1, H, W) images in [-1, 1] to (N, k) unit vectors."""
        return F.normalize((rows_of(images, self.size) - self.mean) @ self.basis, dim=1)

    def to(self, device: torch.device) -> Components:
        """Return the same map for images on a device."""
        return replace(self, mean=to_device(self.mean, device), basis=to_device(self.basis, device))


def principal_components(images: Tensor, noise: float) -> Components:
    """Find the components of images that noise of a size leaves.

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
    """All components of images: their size (h, w), mean (d,), variance (d,), falling, and vectors (d, d).

    Variance and vectors are float64 on the CPU, the vectors in columns; the mean is on the images' device.
    """

    size: tuple[int, int]
    mean: Tensor
    variance: Tensor
    vectors: Tensor


def spectrum(images: Tensor, noise: float) -> Spectrum:
    """Return the components of images (N, 1, H, W) that are to be held against noise of a size.

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
    # Squared in float32, small variances would be rounding: where a device knows no other, the CPU does it.
    narrow = choices(rows.device).wide is not torch.float64
    centred = centred.cpu().double() if narrow else centred.double()
    variance, vectors = torch.linalg.eigh((centred.T @ centred / len(rows)).cpu())
    return Spectrum(size, mean, variance.flip(0).clamp_min(0.0), vectors.flip(1))


def component_size(images: Tensor) -> tuple[int, int]:
    """Return the (h, w) at which components of images (N, 1, H, W) are taken."""
    height, width = images.shape[-2:]
    shrink = min(1.0, LARGEST_SIDE / max(height, width))
    return max(1, round(height * shrink)), max(1, round(width * shrink))


def rows_of(images: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (N, h x w) pixels of images (N, 1, H, W), averaged to a size."""
    if tuple(images.shape[-2:]) != size:
        images = F.interpolate(images, size=size, mode="area")
    return images.flatten(1)
