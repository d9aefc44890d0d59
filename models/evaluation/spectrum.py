"""Power of images by octaves of spatial frequency, which tells how much fine detail they have."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

SMALLEST_CYCLES = 2
"""Lowest frequency of the coarsest octave, in cycles along the shorter side: below lies the whole thorax."""


def num_octaves(height: int, width: int) -> int:
    """Return the number of octaves from the Nyquist frequency down to `SMALLEST_CYCLES`, at least 1."""
    side, count = min(height, width), 1
    while side / 2 ** (count + 2) >= SMALLEST_CYCLES:
        count += 1
    return count


def octave_power(images: Tensor) -> Tensor:
    """Return the power of images in octaves of spatial frequency in any direction, the finest octave first.

    The finest octave reaches from half the Nyquist frequency (a quarter of a cycle per pixel) to the Nyquist
    frequency. The mean of each image is subtracted, and a Hann window keeps its borders from adding power.

    Args:
        images: (N, 1, H, W), sides of at least 4 pixels.

    Returns:
        (N, octaves) fp32, the mean square of each octave. Twice the contrast is four times the power.
    """
    height, width = images.shape[-2:]
    if not len(images):
        return torch.empty(0, num_octaves(height, width))
    window = torch.hann_window(height, periodic=False)[:, None] * torch.hann_window(width, periodic=False)
    centred = images.float() - images.float().mean(dim=(-2, -1), keepdim=True)
    power = torch.fft.rfft2(centred * window).abs().square().squeeze(1) / window.square().sum()
    rows, columns = torch.fft.fftfreq(height), torch.fft.rfftfreq(width)
    frequency = torch.hypot(rows[:, None], columns[None, :])
    # The other half of the spectrum mirrors this one, except its first column and, at even width, its last.
    twice = torch.full_like(columns, 2.0)
    twice[0] = 1.0
    if width % 2 == 0:
        twice[-1] = 1.0
    edges = [0.5 / 2**number for number in range(num_octaves(height, width) + 1)]
    inside = [(frequency <= high) & (frequency > low) for high, low in itertools.pairwise(edges)]
    total = (power * twice).flatten(1)
    return torch.stack([total[:, part.flatten()].sum(dim=1) for part in inside], dim=1) / (height * width)
