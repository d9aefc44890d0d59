"""One seed per image: seeds and initial noise that do not depend on the batch of an image."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

SEED_BITS = 63

Fresh = Callable[[int], Tensor]
"""Step of a stochastic sampler -> standard normal noise (N, ...) that it adds."""


def candidate_seed(run_seed: int, label_index: int, index: int) -> int:
    """Return the seed of candidate ``index`` of class ``label_index``.

    It is a hash, so that neighbouring runs, classes and indices have unrelated seeds.

    Args:
        run_seed: seed of the run, any whole number.
        label_index: class index, not negative.
        index: candidate index within its class, not negative.

    Returns:
        A whole number in [0, 2^63).

    Raises:
        ValueError: an index is negative.
    """
    if label_index < 0:
        raise ValueError(f"label_index must not be negative, got {label_index}")
    if index < 0:
        raise ValueError(f"index must not be negative, got {index}")
    return stream_seed(run_seed, "candidate", label_index, index)


def stream_seed(run_seed: int, purpose: str, *position: int) -> int:
    """Return the seed of one random stream of a run, such as the noise of a training step.

    Args:
        run_seed: seed of the run, any integer.
        purpose: purpose of the stream; streams of different purposes are unrelated.
        *position: position of the stream in the run, for example the step.

    Returns:
        A whole number in [0, 2^63).
    """
    text = "|".join(["phosphor 1", purpose, str(int(run_seed)), *(str(int(part)) for part in position)])
    digest = hashlib.sha256(text.encode("utf-8")).digest()
    return int.from_bytes(digest[:8], "big") >> (64 - SEED_BITS)


def initial_noise(seeds: Sequence[int], shape: tuple[int, ...]) -> Tensor:
    """Return standard normal noise, each sample from its own generator.

    NumPy's generators use the whole seed. Torch's CPU generator uses 32 bits of it, so that two of 77,000
    images would be expected to start from the same noise.

    Args:
        seeds: one seed per sample, each in [0, 2^63).
        shape: shape of one sample, for example (1, H, W).

    Returns:
        Noise (N, *shape), fp32, on the CPU.

    Raises:
        ValueError: a seed lies outside [0, 2^63).
    """
    noise = np.empty((len(seeds), *shape), dtype=np.float32)
    for row, seed in zip(noise, seeds, strict=True):
        if not 0 <= seed < 2**SEED_BITS:
            raise ValueError(f"seeds must lie in [0, 2^{SEED_BITS}), got {seed}")
        row[...] = np.random.Generator(np.random.PCG64(int(seed))).standard_normal(shape, dtype=np.float32)
    return torch.from_numpy(noise)


def fresh_noise(seeds: Sequence[int], shape: tuple[int, ...]) -> Fresh:
    """Return the noise that a stochastic sampler adds, each sample from its own streams.

    The stream of a step depends only on the sample's seed and the step, so a sample gets the same noise alone
    and in any batch.

    Args:
        seeds: one seed per sample, each in [0, 2^63).
        shape: shape of one sample, for example (1, H, W).

    Returns:
        A function of the step, from 0, that returns noise (N, *shape), fp32, on the CPU.
    """

    def fresh(step: int) -> Tensor:
        return initial_noise([stream_seed(seed, "fresh noise", step) for seed in seeds], shape)

    return fresh
