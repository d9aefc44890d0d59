"""The training objective: noise levels, loss, and dropout of the conditions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from models.devices import choices
from models.diffusion.denoiser import Denoiser
from models.network.condition import null_codes


@dataclass(frozen=True)
class SigmaDistribution:
    """Log-normal noise levels of training: ln(sigma) ~ N(mean, std^2) (arXiv 2206.00364, table 1).

    Args:
        mean: mean of ln(sigma).
        std: standard deviation of ln(sigma).
        stratified: cover the distribution evenly within each draw. False draws each value independently, as
            differentially private training requires: no scan may affect the draw of another.

    Raises:
        ValueError: ``std`` is not positive.
    """

    mean: float = -1.2
    std: float = 1.2
    stratified: bool = True

    def __post_init__(self) -> None:
        if not self.std > 0.0:
            raise ValueError(f"std must be positive, got {self.std!r}")

    @classmethod
    def of(cls, denoiser: Denoiser, mean: float, std: float, *, stratified: bool = True) -> SigmaDistribution:
        """Return the levels that a denoiser is trained with: its size moves them, its target spreads them."""
        shift = math.log(denoiser.spec.noise_scale)
        return cls(mean + shift, std * denoiser.noise_spread, stratified=stratified)

    def quantile(self, share: Tensor) -> Tensor:
        """Return the noise levels below which these shares lie, of the same shape and dtype."""
        return (torch.special.ndtri(share) * self.std + self.mean).exp()

    def sample(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw ``count`` noise levels (count,), positive, on the generator's device.

        If stratified, one value is drawn from each of ``count`` intervals of equal probability, in random
        order. Each single value still follows the distribution. A batch covers it evenly, which reduces the
        noise in the loss of a step.
        """
        device = generator.device
        wide = choices(device).wide
        if self.stratified:
            order = torch.randperm(count, generator=generator, device=device)
            offset = torch.rand(count, generator=generator, device=device)
            share = (order + offset.to(wide)) / count
        else:
            share = torch.rand(count, generator=generator, device=device).to(wide)
        # Kept off 0 and 1, where the inverse normal distribution is infinite.
        return self.quantile(share.clamp(1e-7, 1.0 - 1e-7)).float()


def denoising_loss(
    denoiser: Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor],
    clean: Tensor,
    codes: Tensor,
    *,
    sigma: Tensor,
    noise: Tensor,
    weight: Tensor,
    augment: Tensor | None = None,
) -> Tensor:
    """Return the weighted denoising error of each scan (arXiv 2206.00364, equation 8).

    The function draws no random numbers: the same arguments give the same loss.

    Args:
        denoiser: D(x, sigma, codes, augment).
        clean: scans (N, C, H, W) in [-1, 1].
        codes: condition codes (N, F) int64, or classes (N,).
        sigma: noise levels (N,), positive.
        noise: standard normal noise of the shape of ``clean``.
        weight: weight of each scan's error (N,), `Denoiser.loss_weight` of its noise level.
        augment: features (N, A) of the augmentation of ``clean``.

    Returns:
        Loss of each scan (N,), the mean over its pixels.
    """
    denoised = denoiser(clean + sigma.reshape(-1, 1, 1, 1) * noise, sigma, codes, augment)
    return weight * (denoised - clean).square().mean(dim=(1, 2, 3))


def drop_labels(
    codes: Tensor, share: float, num_values: tuple[int, ...], generator: torch.Generator
) -> Tensor:
    """Hide a random share of the conditions, as classifier-free guidance requires.

    With probability ``share`` all fields are hidden. Otherwise each field other than the class is hidden
    independently with the same probability, so that the network learns all combinations of given fields.

    Args:
        codes: condition codes (N, F) int64, on the generator's device.
        share: probability, in [0, 1].
        num_values: number of values of each field, which is also its null code.
        generator: random generator of the choice.

    Returns:
        New codes (N, F) int64.

    Raises:
        ValueError: ``share`` lies outside [0, 1].
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"share must lie in [0, 1], got {share!r}")
    count, num_fields = codes.shape
    hidden = torch.rand(count, generator=generator, device=codes.device)[:, None] < share
    if num_fields > 1:
        alone = torch.rand(count, num_fields, generator=generator, device=codes.device) < share
        alone[:, 0] = False
        hidden = hidden | alone
    return torch.where(hidden, null_codes(num_values, count, codes.device), codes)
