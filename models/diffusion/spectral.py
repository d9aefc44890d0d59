"""EDM's preconditioning for each spatial frequency by itself, as images have little power at high ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

KNEE, DECAY, ROLL_OFF, VARIATION = 2.0, 3.0, 4.0, 0.55
"""The assumed power about the mean scan: frequency below which it flattens, exponent, how fast it falls
beyond the power law near the finest frequency, and share of the standard deviation.

On chests at 28, 64 and 224 pixels, whose scans vary by .26 to .27 about the mean of their class, the error
of the skip path by itself is 3 to 5 % above that with the cohort's own power, and on hands and chests at
28 (.40) it is 21 %. With one standard deviation for all frequencies it is 2.6 to 4.5 times as large, and
2.0. So no power is measured: it would tell about the scans. What a network has not learned yet is drawn
from the law. With (1 + k)^-3 and all the variance, the brightness of images at 224 pixels varied by .31 to
.34 instead of .11 to .17, however long the training; with a roll-off of 2 and of 0 they had 2.7 and 7.3
times the power of real ones in the finest octave after 8 minutes, instead of 1.1.
"""
NOISE_SPREAD = 4 / 3
"""Factor of the spread of ln(sigma) in training: the mean of a large scan is decided at noise a thousand
times that of its finest lines."""


def cosine_basis(side: int) -> Tensor:
    """Return the orthonormal type-II cosine basis (side, side), fp32; row k has k half cycles."""
    place = torch.arange(side, dtype=torch.float64)
    basis = torch.cos(math.pi * (place + 0.5) * place[:, None] / side) * math.sqrt(2.0 / side)
    basis[0] /= math.sqrt(2.0)
    return basis.float()


def mean_power(image_size: tuple[int, int], sigma_data: float) -> Tensor:
    """Return the assumed power about the mean scan of each cosine coefficient (height, width), fp32.

    Power falls as (2 + k)^-3 exp(-4 (k / n)^2) with the frequency k in half cycles along the longer side of
    n pixels. Its mean is (0.55 sigma_data)^2: the mean scan has the rest of the variance of the pixels. White
    noise of standard deviation s has power s^2 at each.

    Args:
        image_size: (height, width).
        sigma_data: standard deviation of the data.
    """
    height, width = image_size
    rows, columns = torch.arange(height) / height, torch.arange(width) / width
    share = torch.hypot(rows[:, None], columns[None, :]).double()
    power = (KNEE + share * max(height, width)) ** -DECAY * (-ROLL_OFF * share.square()).exp()
    return (power * ((VARIATION * sigma_data) ** 2 / power.mean())).float()


class SpectralSkip(nn.Module):
    """Skip path of a denoiser: the Wiener filter for scans of the mean power, plus the network's part.

    A cosine coefficient of power S seen through noise sigma is expected to be c_skip = S / (S + sigma^2)
    times what is seen, with an error of standard deviation c_out = sigma sqrt(S / (S + sigma^2)). These are
    EDM's coefficients (arXiv 2206.00364, table 1) with the standard deviation of each frequency for
    sigma_data. With one standard deviation for all of them, the network's target at high frequencies is the
    noise itself, which a network with large patches has no room to carry.

    Args:
        image_size: (height, width).
        sigma_data: standard deviation of the data.
    """

    rows: Tensor
    columns: Tensor
    power: Tensor

    def __init__(self, image_size: tuple[int, int], sigma_data: float) -> None:
        super().__init__()
        height, width = image_size
        self.register_buffer("rows", cosine_basis(height), persistent=False)
        self.register_buffer("columns", cosine_basis(width), persistent=False)
        self.register_buffer("power", mean_power(image_size, sigma_data), persistent=False)

    def forward(self, x: Tensor, output: Tensor, sigma: Tensor) -> Tensor:
        """Return the clean scans that noisy scans and the network's output stand for.

        Args:
            x: noisy scans (N, C, H, W), fp32.
            output: output of the network (N, C, H, W), fp32.
            sigma: noise levels (N, 1, 1, 1), not negative.
        """
        c_skip = self.power / (self.power + sigma.square())
        c_out = sigma * c_skip.sqrt()
        coefficients = c_skip * self._analyse(x) + c_out * self._analyse(output)
        return self.rows.T @ coefficients @ self.columns

    def loss_weight(self, sigma: Tensor) -> Tensor:
        """Return 1 over the mean square of c_out for noise levels (N,): the filter alone has a loss of 1."""
        power, square = self.power.flatten(), sigma.square()[:, None]
        return torch.reciprocal((power * square / (power + square)).mean(dim=1))

    def _analyse(self, images: Tensor) -> Tensor:
        return self.rows @ images @ self.columns.T
