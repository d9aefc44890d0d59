"""The training objective: which noise levels, which loss, which labels are hidden."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class SigmaDistribution:
    """Log-normal noise levels of training: ln(sigma) ~ N(mean, std^2) (arXiv 2206.00364, table 1).

    Raises:
        ValueError: ``std`` is not positive.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self) -> None:
        if not self.std > 0.0:
            raise ValueError(f"std must be positive, got {self.std!r}")

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ``count`` noise levels (count,), positive, on the generator's device.

        The draw is stratified: one value comes from each of ``count`` equal shares of probability, in random
        order. Each value alone still follows the distribution; a batch covers it evenly, which makes the
        loss of one step less noisy.
        """
        device = generator.device
        order = torch.randperm(count, generator=generator, device=device)
        offset = torch.rand(count, generator=generator, device=device)
        # float64, kept off 0 and 1, where the inverse normal distribution is infinite.
        share = ((order + offset.double()) / count).clamp(1e-7, 1.0 - 1e-7)
        return (torch.special.ndtri(share) * self.std + self.mean).exp().float()


def loss_weight(sigma: Tensor, sigma_data: float) -> Tensor:
    """EDM's weight lambda(sigma) = 1 / c_out^2, which gives every noise level unit initial loss.

    Args:
        sigma: noise levels, positive, any shape.
        sigma_data: standard deviation of the data.
    """
    return (sigma.square() + sigma_data**2) / (sigma * sigma_data).square()


def denoising_loss(
    denoiser: Callable[[Tensor, Tensor, Tensor], Tensor],
    clean: Tensor,
    labels: Tensor,
    *,
    sigma: Tensor,
    noise: Tensor,
    sigma_data: float,
) -> Tensor:
    """EDM's weighted denoising error of each scan (arXiv 2206.00364, equation 8).

    Nothing is drawn inside: the same arguments give the same loss.

    Args:
        denoiser: D(x (N, 1, H, W), sigma (N,), labels (N,)) -> (N, 1, H, W).
        clean: scans (N, 1, H, W) in [-1, 1].
        labels: class indices (N,) int64.
        sigma: noise levels (N,), positive.
        noise: unit normal noise of the shape of ``clean``.
        sigma_data: standard deviation of the data.

    Returns:
        Loss of each scan (N,), the mean over its pixels.
    """
    denoised = denoiser(clean + sigma.reshape(-1, 1, 1, 1) * noise, sigma, labels)
    error = (denoised - clean).square().mean(dim=(1, 2, 3))
    return loss_weight(sigma, sigma_data) * error


def drop_labels(labels: Tensor, share: float, null_label: int, generator: torch.Generator) -> Tensor:
    """Replace a random share of the labels by the null class, which classifier-free guidance needs.

    Args:
        labels: class indices (N,) int64, on the generator's device.
        share: probability of each label being dropped, in [0, 1].
        null_label: index of the null class.
        generator: source of the choice.

    Returns:
        New labels (N,) int64.

    Raises:
        ValueError: ``share`` lies outside [0, 1].
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share must lie in [0, 1], got {share!r}")
    dropped = torch.rand(labels.shape, generator=generator, device=labels.device) < share
    return torch.where(dropped, torch.full_like(labels, null_label), labels)
