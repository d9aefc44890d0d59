"""Membership inference attacks on a denoiser: scores that are higher for images it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from models.devices import to_device
from models.diffusion.denoiser import Denoiser
from models.diffusion.objective import denoising_loss
from models.noise import initial_noise, stream_seed

Attack = Callable[[Denoiser, Tensor, Tensor, Sequence[float]], Tensor]
"""(denoiser, clean (N, C, H, W), codes (N, F), noise levels (L)) -> (N, L) scores, higher for members."""

SMALLEST_SIGMA = 0.02
"""Noise level at which the proximal attack reads an image's own noise; below it rounding takes over."""
NUM_NOISES = 2


def loss_attack(denoiser: Denoiser, clean: Tensor, codes: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Score by the denoising loss (Matsumoto et al. 2023, arXiv 2302.03262): members are denoised better.

    The noise is the same for every image, so that images differ by nothing but themselves.

    Args:
        denoiser: the attacked denoiser.
        clean: images (N, C, H, W) as it was trained on.
        codes: their condition codes (N, F) int64, or classes (N,).
        sigmas: noise levels (L), positive.

    Returns:
        (N, L) minus the weighted loss, the mean over `NUM_NOISES` draws of noise.
    """
    seeds = [stream_seed(0, "membership", draw) for draw in range(NUM_NOISES)]
    noises = to_device(initial_noise(seeds, tuple(clean.shape[1:])).to(clean.dtype), clean.device)

    def loss(sigma: float, noise: Tensor) -> Tensor:
        return denoising_loss(
            denoiser,
            clean,
            codes,
            sigma=_levels(clean, sigma),
            noise=noise.expand_as(clean),
            sigma_data=denoiser.sigma_data,
            parametrisation=denoiser.parametrisation,
        )

    means = [torch.stack([loss(sigma, noise) for noise in noises]).mean(dim=0) for sigma in sigmas]
    return -torch.stack(means, dim=1)


def simple_attack(denoiser: Denoiser, clean: Tensor, codes: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Score by the noise that is seen in the clean image (SimA; Rao et al. 2025, arXiv 2509.25003).

    At a member the estimated score is small: the smoothed density that was learnt has its peak near it.

    Arguments are those of `loss_attack`.

    Returns:
        (N, L) minus the root mean square of the predicted noise.
    """
    sizes = [_size(_predicted_noise(denoiser, clean, codes, sigma)) for sigma in sigmas]
    return -torch.stack(sizes, dim=1)


def proximal_attack(denoiser: Denoiser, clean: Tensor, codes: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Score by how well the image's own noise is predicted (PIA; Kong et al. 2023, arXiv 2305.18355).

    The noise that is seen in the clean image at `SMALLEST_SIGMA`, scaled to unit variance as in the paper's
    normalised variant, is added to it at each level and predicted again.

    Arguments are those of `loss_attack`.

    Returns:
        (N, L) minus the fourth root of the mean fourth power of the error.
    """
    own = _predicted_noise(denoiser, clean, codes, SMALLEST_SIGMA)
    own = own / _size(own).clamp_min(1e-6).reshape(-1, 1, 1, 1)
    errors = [_predicted_noise(denoiser, clean + sigma * own, codes, sigma) - own for sigma in sigmas]
    return -torch.stack([error.pow(4).mean(dim=(1, 2, 3)).pow(0.25) for error in errors], dim=1)


ATTACKS: dict[str, Attack] = {"loss": loss_attack, "sima": simple_attack, "pia": proximal_attack}


def num_passes(num_levels: int) -> int:
    """Return the network passes that `attack_scores` needs for an image at so many noise levels."""
    return NUM_NOISES * num_levels + num_levels + num_levels + 1


@torch.no_grad()
def attack_scores(denoiser: Denoiser, clean: Tensor, codes: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Return the score of every attack at every noise level.

    Args:
        denoiser: the attacked denoiser, in evaluation mode.
        clean: images (N, C, H, W) as it was trained on, on its device.
        codes: their condition codes (N, F) int64, or classes (N,).
        sigmas: noise levels, positive.

    Returns:
        (N, attacks, levels) float64 on the CPU, attacks in the order of `ATTACKS`.

    Raises:
        ValueError: no noise level, or one that is not positive.
    """
    if not sigmas or min(sigmas) <= 0:
        raise ValueError(f"sigmas must be positive and not empty, got {tuple(sigmas)}")
    rows = [attack(denoiser, clean, codes, sigmas) for attack in ATTACKS.values()]
    return torch.stack(rows, dim=1).cpu().double()


def _predicted_noise(denoiser: Denoiser, noisy: Tensor, codes: Tensor, sigma: float) -> Tensor:
    return (noisy - denoiser(noisy, _levels(noisy, sigma), codes)) / sigma


def _size(noise: Tensor) -> Tensor:
    return noise.square().mean(dim=(1, 2, 3)).sqrt()


def _levels(clean: Tensor, sigma: float) -> Tensor:
    return torch.full((len(clean),), sigma, device=clean.device)
