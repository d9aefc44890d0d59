"""Classifier-free guidance: a denoiser and labels become one function of (x, sigma)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.denoiser import Denoiser
from models.samplers import Denoise


def guided_denoise(denoiser: Denoiser, labels: Tensor, guidance_scale: float = 1.0) -> Denoise:
    """Fix labels and guidance: null + scale * (class - null).

    Ho and Salimans 2022 (arXiv 2207.12598, equation 6, with scale = 1 + w).

    Args:
        denoiser: the class-conditional denoiser.
        labels: class indices (N,) int64 on the denoiser's device.
        guidance_scale: 1 is the plain conditional model and costs one network pass; 0 is the unconditional
            model, one pass too; any other value costs two passes.

    Returns:
        A function (x (N, 1, H, W), sigma (N,)) -> denoised (N, 1, H, W).

    Raises:
        ValueError: ``guidance_scale`` is negative or not finite, or a label is out of range.
    """
    if not (math.isfinite(guidance_scale) and guidance_scale >= 0.0):
        raise ValueError(f"guidance_scale must be finite and not negative, got {guidance_scale!r}")
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) <= denoiser.null_label:
        raise ValueError(f"labels must lie in [0, {denoiser.null_label}], got up to {int(labels.max())}")
    null_labels = torch.full_like(labels, denoiser.null_label)
    if guidance_scale in (0.0, 1.0):
        chosen = labels if guidance_scale == 1.0 else null_labels
        return lambda x, sigma: denoiser(x, sigma, chosen)

    both_labels = torch.cat([labels, null_labels])

    def denoise(x: Tensor, sigma: Tensor) -> Tensor:
        conditional, unconditional = denoiser(
            torch.cat([x, x]), torch.cat([sigma, sigma]), both_labels
        ).chunk(2)
        return torch.lerp(unconditional, conditional, guidance_scale)

    return denoise
