"""Learned loss weighting: every noise level is made to count alike, as far as its loss can be foreseen."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

_WIDTH = 64


class Uncertainty(nn.Module):
    """The logarithm u(sigma) of the loss to be expected at a noise level, learnt along with the denoiser.

    The denoiser's loss L becomes L / exp(u) + u, which is least where exp(u) is the expected loss at that
    noise level: then each level adds to the gradient in proportion to what is still to be gained there
    (Karras et al. 2024, arXiv 2312.02696, section 2.2 and equation 21). It is one linear layer on fixed
    Fourier features, starts at u = 0, and plays no part in sampling.
    """

    frequency: Tensor
    phase: Tensor

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("frequency", torch.randn(_WIDTH, generator=generator), persistent=False)
        self.register_buffer("phase", torch.rand(_WIDTH, generator=generator), persistent=False)
        self.linear = nn.Linear(_WIDTH, 1)
        for parameter in self.linear.parameters():
            nn.init.zeros_(parameter)

    def forward(self, sigma: Tensor) -> Tensor:
        """Return u (N,) of noise levels (N,), positive."""
        angle = sigma.log()[:, None] / 4.0 * self.frequency + self.phase
        features = math.sqrt(2.0) * (2.0 * math.pi * angle).cos()
        u: Tensor = self.linear(features)
        return u[:, 0]

    def weigh(self, losses: Tensor, sigma: Tensor) -> Tensor:
        """Return losses / exp(u) + u (N,) of denoising losses (N,) at noise levels (N,)."""
        u = self(sigma)
        return losses * (-u).exp() + u
