"""The denoiser: a network made well-conditioned at every noise level."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.network import NetworkSpec, build_network

# The network embeds its noise input by sines of periods 1 to 10,000. EDM's c_noise spans about [-1.6, 1.1];
# this factor spreads it over enough of those periods for neighbouring noise levels to look different.
NOISE_INPUT_SCALE = 100.0


class Denoiser(nn.Module):
    """EDM-preconditioned class-conditional denoiser D(x; sigma, label).

    ``D = c_skip x + c_out F(c_in x, c_noise, label)`` with the coefficients of Karras et al. 2022
    (arXiv 2206.00364, equation 7 and table 1), chosen so that the input of F and its training target have
    unit variance at every sigma when the data have standard deviation ``sigma_data``.

    Args:
        spec: shape of the network.
        sigma_data: standard deviation of the data that the coefficients assume; data lie in [-1, 1].
        seed: seed of the initial weights.

    Raises:
        ValueError: ``sigma_data`` is not a positive finite number.
    """

    def __init__(self, spec: NetworkSpec, *, sigma_data: float = 0.5, seed: int = 0) -> None:
        super().__init__()
        if not 0.0 < sigma_data < float("inf"):
            raise ValueError(f"sigma_data must be positive and finite, got {sigma_data!r}")
        self.spec = spec
        self.sigma_data = float(sigma_data)
        self.network = build_network(spec, seed=seed)

    @property
    def compute_dtype(self) -> torch.dtype:
        """The type of the network's weights, in which it computes (see models/precision.py)."""
        return next(self.network.parameters()).dtype

    @property
    def null_label(self) -> int:
        """The class index that means "no class": the unconditional branch of guidance."""
        return self.spec.null_label

    @property
    def num_classes(self) -> int:
        """The number of real classes."""
        return self.spec.num_classes

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor) -> Tensor:
        """Estimate the clean scan.

        Args:
            x: noisy scans (N, 1, H, W), clean data in [-1, 1] plus sigma times unit noise.
            sigma: noise levels (N,), not negative.
            labels: class indices (N,) int64 in [0, num_classes]; ``null_label`` means no class.

        Returns:
            The expected clean scans (N, 1, H, W), fp32.
        """
        x = x.float()
        sigma = sigma.float().reshape(-1, 1, 1, 1)
        c_skip, c_out, c_in, c_noise = preconditioning(sigma, self.sigma_data)
        output = self._run_network((c_in * x).to(self.compute_dtype), c_noise.flatten(), labels)
        return c_skip * x + c_out * output.float()

    def _run_network(self, x: Tensor, c_noise: Tensor, labels: Tensor) -> Tensor:
        height, width = x.shape[-2:]
        pad_height, pad_width = -height % self.spec.multiple, -width % self.spec.multiple
        top, left = pad_height // 2, pad_width // 2
        if pad_height or pad_width:
            padding = (left, pad_width - left, top, pad_height - top)
            x = functional.pad(x, padding, mode="replicate")
        output: Tensor = self.network(x, c_noise * NOISE_INPUT_SCALE, class_labels=labels)
        if pad_height or pad_width:
            output = output[..., top : top + height, left : left + width]
        return output


def preconditioning(sigma: Tensor, sigma_data: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The coefficients ``(c_skip, c_out, c_in, c_noise)`` at each noise level (arXiv 2206.00364, table 1).

    Args:
        sigma: noise levels, any shape, not negative. At zero ``c_skip`` is 1, ``c_out`` is 0: the identity.
        sigma_data: standard deviation of the data.

    Returns:
        Four tensors of the shape of ``sigma``.
    """
    total = sigma.square() + sigma_data**2
    c_skip = sigma_data**2 / total
    c_out = sigma * sigma_data / total.sqrt()
    c_in = 1.0 / total.sqrt()
    # The floor keeps sigma = 0 finite; it lies below every noise level that training or sampling visits.
    c_noise = sigma.clamp_min(1e-4).log() / 4.0
    return c_skip, c_out, c_in, c_noise
