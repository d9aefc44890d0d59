"""Distributions whose score is known exactly, and what a sampler makes of them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from models.samplers import SamplerEntry


class Gaussian:
    """A normal distribution of any number of dimensions."""

    def __init__(self, mean: Tensor, variances: Tensor, basis: Tensor) -> None:
        """Take mean (d,), and variances (d,) along the columns of an orthogonal basis (d, d), all fp64."""
        self.mean, self.variances, self.basis = mean, variances, basis

    @property
    def covariance(self) -> Tensor:
        return self.basis * self.variances @ self.basis.T

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        kept = self.variances / (self.variances + sigma**2)
        shrink = (self.basis * kept @ self.basis.T).float()
        mean = self.mean.float()
        return mean + (x - mean) @ shrink


def one_dimensional(mean: float, std: float) -> Gaussian:
    one = torch.ones(1, dtype=torch.float64)
    return Gaussian(mean * one, std**2 * one, one.reshape(1, 1))


def correlated() -> Gaussian:
    """16 dimensions, every one of them mixed with every other, variances from 0.02 to 4."""
    generator = torch.Generator().manual_seed(3)
    basis, _ = torch.linalg.qr(torch.randn(16, 16, generator=generator, dtype=torch.float64))
    mean = 0.3 * torch.randn(16, generator=generator, dtype=torch.float64)
    return Gaussian(mean, torch.logspace(0, 1, 16, 200.0, dtype=torch.float64) * 0.02, basis)


def outcome(entry: SamplerEntry, known: Gaussian, sigmas: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean (d,) and covariance (d, d) of the samples that a sampler draws, without chance.

    On a Gaussian every sampler is a linear function of its noise, initial and fresh: one row without noise
    gives the mean, and one row for each unit of noise that goes in gives the covariance.
    """
    dimensions = len(known.mean)
    sources = len(sigmas) if entry.stochastic else 1
    rows = 1 + sources * dimensions

    def unit(source: int) -> Tensor:
        noise = torch.zeros(rows, dimensions)
        first = 1 + source * dimensions
        noise[first : first + dimensions] = torch.eye(dimensions)
        return noise

    samples = entry.sample(known.denoise, unit(0), sigmas, lambda step: unit(1 + step)).double()
    spread = samples[1:] - samples[0]
    return samples[0], spread.T @ spread


class Mixture:
    """Two normal components in one dimension."""

    means = torch.tensor([-0.6, 0.5], dtype=torch.float64)
    weights = torch.tensor([0.3, 0.7], dtype=torch.float64)

    def __init__(self, width: float = 0.1) -> None:
        self.width = width

    @property
    def mean(self) -> float:
        return float((self.weights * self.means).sum())

    @property
    def std(self) -> float:
        second = float((self.weights * self.means**2).sum()) + self.width**2
        return (second - self.mean**2) ** 0.5

    def denoise(self, x: Tensor, sigma: float) -> Tensor:
        total = self.width**2 + sigma**2
        upper = torch.sigmoid(self._log_odds(x, total))
        means = self.means.tolist()
        centre = means[0] + upper * (means[1] - means[0])
        return (self.width**2 * x + (total - self.width**2) * centre) / total

    def _log_odds(self, x: Tensor, total: float) -> Tensor:
        low, high = self.means.tolist()
        share = float((self.weights[1] / self.weights[0]).log())
        return share + ((x - low) ** 2 - (x - high) ** 2) / (2 * total)


def normal_quantiles(count: int) -> Tensor:
    """Unit normal noise (count, 1) as even as it can be: no allowance for chance is needed."""
    middle = (torch.arange(count, dtype=torch.float64) + 0.5) / count
    return torch.special.ndtri(middle).float().reshape(-1, 1)


def fresh_from(seed: int, shape: tuple[int, ...]) -> Callable[[int], Tensor]:
    """Fresh noise from one generator, for many samples at a time."""
    generator = torch.Generator().manual_seed(seed)
    return lambda step: torch.randn(shape, generator=generator)
