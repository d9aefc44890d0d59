"""Guidance: combines a denoiser and its condition to one function of (x, sigma)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from models.diffusion.denoiser import Denoiser
from models.samplers import Denoise, at_level


@dataclass(frozen=True)
class Guidance:
    """Scale, noise levels and reference of the guidance: weak + scale * (asked - weak).

    Attributes:
        scale: 1 is the plain conditional model and needs one network pass; 0 is the weak model alone; other
            values need two passes.
        low: noise level above which the guidance is applied; outside of (low, high], the plain conditional
            model is used (Kynkaanniemi et al. 2024, arXiv 2404.07724).
        high: largest noise level at which the guidance is applied.
        away_from: codes (F,) to guide away from, for example the other class; None is no class, which is
            classifier-free guidance (Ho and Salimans 2022, arXiv 2207.12598).
        guide: a weaker denoiser to guide away from under the same condition, which keeps diversity (Karras et
            al. 2024, arXiv 2406.02507); None uses the denoiser itself.

    Raises:
        ValueError: a number is negative or not finite, the interval is empty, or both ``away_from`` and
            ``guide`` are given.
    """

    scale: float = 1.0
    low: float = 0.0
    high: float = math.inf
    away_from: Tensor | None = None
    guide: Denoiser | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale >= 0.0):
            raise ValueError(f"guidance_scale must be finite and not negative, got {self.scale!r}")
        if not 0.0 <= self.low < self.high:
            raise ValueError(
                f"the guidance interval must satisfy 0 <= low < high, got {self.low}, {self.high}"
            )
        if self.away_from is not None and self.guide is not None:
            raise ValueError("guidance is either away from a class or away from a weaker denoiser")

    def acts_at(self, sigma: float) -> bool:
        """Return whether the guidance is applied at this noise level."""
        return self.scale != 1.0 and self.low < sigma <= self.high


def guided_denoise(denoiser: Denoiser, codes: Tensor, guidance: Guidance | float = 1.0) -> Denoise:
    """Return a denoise function with a fixed condition and guidance.

    Args:
        denoiser: the conditional denoiser.
        codes: condition codes (N, F) int64, or classes (N,), on the denoiser's device.
        guidance: how to guide; a number is the scale of classifier-free guidance.

    Returns:
        A function (x (N, C, H, W), noise level) -> denoised (N, C, H, W).

    Raises:
        ValueError: a code is out of range, or the guidance is wrong.
    """
    guidance = guidance if isinstance(guidance, Guidance) else Guidance(float(guidance))
    asked = _checked(denoiser, codes)
    weak = _weak_codes(denoiser, asked, guidance)

    def denoise(x: Tensor, level: float) -> Tensor:
        sigma = at_level(x, level)
        if not guidance.acts_at(level):
            return denoiser(x, sigma, asked)
        if guidance.guide is not None:
            weaker = guidance.guide(x, sigma, weak)
            return (
                weaker
                if guidance.scale == 0.0
                else torch.lerp(weaker, denoiser(x, sigma, asked), guidance.scale)
            )
        if guidance.scale == 0.0:
            return denoiser(x, sigma, weak)
        strong, weaker = denoiser(
            torch.cat([x, x]), torch.cat([sigma, sigma]), torch.cat([asked, weak])
        ).chunk(2)
        return torch.lerp(weaker, strong, guidance.scale)

    return denoise


def _weak_codes(denoiser: Denoiser, asked: Tensor, guidance: Guidance) -> Tensor:
    if guidance.guide is not None:
        return asked
    weak = asked.clone()
    if guidance.away_from is not None:
        weak[:] = _checked(denoiser, guidance.away_from.reshape(1, -1).to(asked.device))
    else:
        weak[:] = denoiser.null_codes(len(asked), asked.device)
    return weak


def _checked(denoiser: Denoiser, codes: Tensor) -> Tensor:
    expanded = denoiser.expand(codes)
    limits = denoiser.null_codes(len(expanded), expanded.device)
    if expanded.shape != limits.shape or bool(((expanded < 0) | (expanded > limits)).any()):
        raise ValueError(
            f"codes must have shape (N, {limits.shape[1]}) and lie in 0 to {denoiser.spec.num_values}, "
            f"got {tuple(codes.shape)} up to {int(codes.max()) if codes.numel() else None}"
        )
    return expanded
