"""Membership inference attacks on a denoiser: scores that are higher for images it was trained on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.devices import to_device
from models.diffusion.denoiser import Denoiser
from models.diffusion.objective import denoising_loss
from models.noise import initial_noise, stream_seed

SMALLEST_SIGMA = 0.02
"""Noise level at which the proximal attack predicts the noise of an image; below it, rounding dominates."""
NUM_NOISES = 2


@dataclass(frozen=True)
class Attack:
    """A way to tell images that a denoiser was trained on.

    Attributes:
        scores: (denoiser, clean (N, C, H, W), codes (N, F), noise levels (L)) -> (N, L) scores, higher for
            members.
        num_passes: number of noise levels -> network passes that an image costs.
    """

    scores: Callable[[Denoiser, Tensor, Tensor, Sequence[float]], Tensor]
    num_passes: Callable[[int], int]


def loss_attack(denoiser: Denoiser, clean: Tensor, codes: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Score by the denoising loss (Matsumoto et al. 2023, arXiv 2302.03262): members are denoised better.

    All images get the same noise, so that scores differ by the images alone.

    Args:
        denoiser: the attacked denoiser.
        clean: images (N, C, H, W), in the form that the denoiser was trained on.
        codes: condition codes (N, F) int64, or classes (N,).
        sigmas: L positive noise levels.

    Returns:
        (N, L) minus the weighted loss, the mean over `NUM_NOISES` draws of noise.
    """
    seeds = [stream_seed(0, "membership", draw) for draw in range(NUM_NOISES)]
    noises = to_device(initial_noise(seeds, tuple(clean.shape[1:])).to(clean.dtype), clean.device)

    def loss(sigma: float, noise: Tensor) -> Tensor:
        levels = _levels(clean, sigma)
        weight = denoiser.loss_weight(levels)
        return denoising_loss(
            denoiser, clean, codes, sigma=levels, noise=noise.expand_as(clean), weight=weight
        )

    means = [torch.stack([loss(sigma, noise) for noise in noises]).mean(dim=0) for sigma in sigmas]
    return -torch.stack(means, dim=1)


def simple_attack(denoiser: Denoiser, clean: Tensor, codes: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Score by the noise predicted in the clean image (SimA; Rao et al. 2025, arXiv 2509.25003).

    The estimated score is small at a member, because the learned smoothed density has a peak near it.

    Arguments are those of `loss_attack`.

    Returns:
        (N, L) minus the root mean square of the predicted noise.
    """
    sizes = [_size(_predicted_noise(denoiser, clean, codes, sigma)) for sigma in sigmas]
    return -torch.stack(sizes, dim=1)


def proximal_attack(denoiser: Denoiser, clean: Tensor, codes: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Score by how well the predicted noise is predicted again (PIA; Kong et al. 2023, arXiv 2305.18355).

    The noise predicted in the clean image at `SMALLEST_SIGMA` is scaled to unit variance, as in the paper's
    normalised variant, added to the image at each level, and predicted again.

    Arguments are those of `loss_attack`.

    Returns:
        (N, L) minus the fourth root of the mean fourth power of the error.
    """
    own = _predicted_noise(denoiser, clean, codes, SMALLEST_SIGMA)
    own = own / _size(own).clamp_min(1e-6).reshape(-1, 1, 1, 1)
    errors = [_predicted_noise(denoiser, clean + sigma * own, codes, sigma) - own for sigma in sigmas]
    return -torch.stack([error.pow(4).mean(dim=(1, 2, 3)).pow(0.25) for error in errors], dim=1)


ATTACKS: dict[str, Attack] = {
    "loss": Attack(loss_attack, num_passes=lambda levels: NUM_NOISES * levels),
    "sima": Attack(simple_attack, num_passes=lambda levels: levels),
    "pia": Attack(proximal_attack, num_passes=lambda levels: levels + 1),
}
"""Name in a privacy report -> attack, in the order of its rows."""


def num_passes(num_levels: int) -> int:
    """Return the number of network passes of `attack_scores` per image at this number of noise levels."""
    return sum(attack.num_passes(num_levels) for attack in ATTACKS.values())


@torch.no_grad()
def attack_scores(denoiser: Denoiser, clean: Tensor, codes: Tensor, sigmas: Sequence[float]) -> Tensor:
    """Return the score of every attack at every noise level.

    Args:
        denoiser: the attacked denoiser, in evaluation mode.
        clean: images (N, C, H, W), in the form that the denoiser was trained on and on its device.
        codes: condition codes (N, F) int64, or classes (N,).
        sigmas: positive noise levels.

    Returns:
        (N, attacks, levels) float64 on the CPU, attacks in the order of `ATTACKS`.

    Raises:
        ValueError: no noise level, or a noise level that is not positive.
    """
    if not sigmas or min(sigmas) <= 0:
        raise ValueError(f"sigmas must be positive and not empty, got {tuple(sigmas)}")
    rows = [attack.scores(denoiser, clean, codes, sigmas) for attack in ATTACKS.values()]
    return torch.stack(rows, dim=1).cpu().double()


def _predicted_noise(denoiser: Denoiser, noisy: Tensor, codes: Tensor, sigma: float) -> Tensor:
    return (noisy - denoiser(noisy, _levels(noisy, sigma), codes)) / sigma


def _size(noise: Tensor) -> Tensor:
    return noise.square().mean(dim=(1, 2, 3)).sqrt()


def _levels(clean: Tensor, sigma: float) -> Tensor:
    return torch.full((len(clean),), sigma, device=clean.device)
