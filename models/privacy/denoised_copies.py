"""What a model left of an image that it noised and denoised: undone, and held against every real image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from models.devices import to_device
from models.privacy.pca import rows_of, spectrum

LEAST_VARIANCE = 1e-3
"""Added to the variance along each component: finer structure is a model's own error and rounding."""


@dataclass(frozen=True)
class Redraw:
    """A Gaussian picture of images, in which noising and denoising can be undone.

    The probability flow of a diffusion model (Song et al. 2021, arXiv 2011.13456) takes a noised image y back
    to a clean one without further noise. Where images are Gaussian with variance v along a component, and the
    noise has variance s^2, it scales y - mean by sqrt(v / (v + s^2)): what comes out still says what y was,
    and y lies at the source as closely as the noise allows.

    Attributes:
        size: (h, w) of the images it is applied to, after averaging.
        mean: (d,) of the images; basis: (d, d) their components in columns; variance: (d,) along each.
        noise: s, in the images' range.
    """

    size: tuple[int, int]
    mean: Tensor
    basis: Tensor
    variance: Tensor
    noise: float

    def undone(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return what (N, 1, H, W) images were before denoising, and how likely each is as a new image.

        Returns:
            (N, d) rows in the components, and (N,) their log density as noised new images, up to a constant
            that `log_likelihood` shares.
        """
        along = (rows_of(images, self.size) - self.mean) @ self.basis
        noised = along * (1.0 + self.noise**2 / self.variance).sqrt()
        return noised, -0.5 * (along.square() / self.variance).sum(dim=1)

    def known(self, images: Tensor) -> Tensor:
        """Return (M, d) rows of possible sources (M, 1, H, W), in the components."""
        return (rows_of(images, self.size) - self.mean) @ self.basis

    def log_likelihood(self, noised: Tensor, known: Tensor) -> Tensor:
        """Return (N, M) how likely each of `noised` (N, d) is as each of `known` (M, d) with noise."""
        distance = noised.square().sum(dim=1, keepdim=True) + known.square().sum(dim=1) - 2 * noised @ known.T
        return -0.5 * distance / self.noise**2


def redraw(images: Tensor, noise: float) -> Redraw:
    """Fit the picture to images (N, 1, H, W) in [-1, 1].

    Raises:
        ValueError: fewer than two images, or `noise` is not positive.
    """
    found = spectrum(images, noise)
    basis, variance = (to_device(one.float(), images.device) for one in (found.vectors, found.variance))
    return Redraw(found.size, found.mean, basis, variance + LEAST_VARIANCE, noise)


def spacing(values: Tensor, best: Tensor, *, count: int = 50) -> Tensor:
    """Return how far `best` (N,) lies past the largest of other values (N, K), in units of their spacing.

    Values of -infinity are left out.

    The gaps between the largest of many values shrink as 1, 1/2, 1/3, ... of one scale (Renyi 1953): the mean
    of the k-th gap times k estimates it, query by query, whatever the values' own scale.
    """
    top = values.topk(min(count + 1, values.shape[1]), dim=1).values
    # Which of them are values is found without asking the device, for which the host would have to wait.
    usable = torch.isfinite(top[:, 1:])
    ranks = torch.arange(1, top.shape[1], device=values.device)
    gaps = (ranks * (top[:, :-1] - top[:, 1:])).masked_fill(~usable, 0.0)
    found = usable.sum(dim=1)
    scale = (gaps.sum(dim=1) / found.clamp_min(1)).clamp_min(1e-6)
    return (best - top[:, 0]) / torch.where(found > 0, scale, 1.0)
