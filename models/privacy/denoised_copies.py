"""Detects images that a model made by noising and denoising a real image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.devices import to_device
from models.privacy.pca import rows_of, spectrum

LEAST_VARIANCE = 1e-3
"""Added to the variance along each component: finer structure is model error and rounding."""


@dataclass(frozen=True)
class Redraw:
    """A Gaussian model of images in which noising and denoising can be inverted.

    The probability flow of a diffusion model (Song et al. 2021, arXiv 2011.13456) maps a noised image y to a
    clean one without adding noise. If images are Gaussian with variance v along a component, and the noise
    has variance s^2, it scales y - mean by sqrt(v / (v + s^2)). The result therefore determines y, and y is
    as close to the source as the noise allows.

    Attributes:
        size: (h, w) to which images are averaged first.
        mean: (d,) mean of the images.
        basis: (d, d) components in columns.
        variance: (d,) variance along each component.
        noise: s, in the images' range.
    """

    size: tuple[int, int]
    mean: Tensor
    basis: Tensor
    variance: Tensor
    noise: float

    def undone(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Invert the denoising of (N, 1, H, W) images.

        Returns:
            (N, d) noised images in the components, and (N,) their log density as noised new images, up to a
            constant shared with `log_likelihood`.
        """
        along = (rows_of(images, self.size) - self.mean) @ self.basis
        noised = along * (1.0 + self.noise**2 / self.variance).sqrt()
        return noised, -0.5 * (along.square() / self.variance).sum(dim=1)

    def known(self, images: Tensor) -> Tensor:
        """Return possible sources (M, 1, H, W) in the components, (M, d)."""
        return (rows_of(images, self.size) - self.mean) @ self.basis

    def log_likelihood(self, noised: Tensor, known: Tensor) -> Tensor:
        """Return the log likelihood (N, M) of each of `noised` (N, d) as a noised one of `known` (M, d)."""
        distance = noised.square().sum(dim=1, keepdim=True) + known.square().sum(dim=1) - 2 * noised @ known.T
        return -0.5 * distance / self.noise**2


def redraw(images: Tensor, noise: float) -> Redraw:
    """Fit the model to images (N, 1, H, W) in [-1, 1].

    Raises:
        ValueError: fewer than two images, or `noise` is not positive.
    """
    found = spectrum(images, noise)
    basis, variance = (to_device(one.float(), images.device) for one in (found.vectors, found.variance))
    return Redraw(found.size, found.mean, basis, variance + LEAST_VARIANCE, noise)


def spacing(values: Tensor, best: Tensor, *, count: int = 50) -> Tensor:
    """Return how far `best` (N,) exceeds the largest of other values (N, K), in units of their spacing.

    Values of -infinity are ignored.

    The gaps between the largest of many values decrease as 1, 1/2, 1/3, ... times a common scale (Renyi
    1953). The mean of k times the k-th gap estimates this scale for each query.
    """
    top = values.topk(min(count + 1, values.shape[1]), dim=1).values
    # The finite values are counted on the device: reading the count would make the host wait.
    usable = torch.isfinite(top[:, 1:])
    ranks = torch.arange(1, top.shape[1], device=values.device)
    gaps = (ranks * (top[:, :-1] - top[:, 1:])).masked_fill(~usable, 0.0)
    found = usable.sum(dim=1)
    scale = (gaps.sum(dim=1) / found.clamp_min(1)).clamp_min(1e-6)
    return (best - top[:, 0]) / torch.where(found > 0, scale, 1.0)
