"""Memorisation of the averaged denoiser: the difference of its loss on val scans and on train scans."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from models.devices import choices, to_device
from models.diffusion.denoiser import Denoiser
from models.diffusion.objective import SigmaDistribution, denoising_loss
from models.noise import initial_noise, stream_seed
from pipeline.arrays import Floats, Ints
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.conditions import CohortConditions
from pipeline.train.latent.sources import LatentSource, PixelSource
from pipeline.train.parts import ObjectiveSettings

MIN_PAIRS = 12
"""Smallest number of pairs of scans for the standard error of a gap."""
MAX_PAIRS = 256
NUM_LEVELS = 4
_BATCH = 64


@dataclass(frozen=True)
class Gap:
    """Measured gap between train and val loss.

    Attributes:
        train: mean denoising loss of the train scans.
        val: mean denoising loss of the val scans.
        mean: mean of (val - train) over the pairs.
        error: standard error of the mean.
    """

    train: float
    val: float
    mean: float
    error: float


class PairedScans:
    """Pairs of one train scan and one val scan of the same class, with fixed noise.

    The pairs come from the val split and never from the holdout. The privacy gate tests on the holdout, so a
    checkpoint chosen by the holdout would be selected on its own test set. Scans of the same patient count as
    independent, because training reads no table. With many scans per patient, the standard error is too
    small.

    Args:
        cohort: the cohort.
        source: data source of the denoiser.
        conditions: conditions of each scan.
        objective: training objective; the noise levels are at equal shares of its distribution.
        seed: run seed.
    """

    def __init__(
        self,
        cohort: Cohort,
        source: PixelSource | LatentSource,
        conditions: CohortConditions,
        objective: ObjectiveSettings,
        seed: int,
    ) -> None:
        self._source, self._conditions, self._seed = source, conditions, seed
        self._objective = objective
        self.train, self.val = _pairs(cohort, seed)

    def __len__(self) -> int:
        return len(self.train)

    @torch.no_grad()
    def measure(self, denoiser: Denoiser) -> Gap:
        """Measure the gap of a denoiser, on its device."""
        train, val = self._losses(denoiser, self.train), self._losses(denoiser, self.val)
        gap = val - train
        error = float(gap.std(ddof=1)) / len(gap) ** 0.5
        return Gap(float(train.mean()), float(val.mean()), float(gap.mean()), error)

    def _levels(self, denoiser: Denoiser) -> list[float]:
        """Return the noise levels at equal shares of the distribution that this denoiser is trained with."""
        share = (torch.arange(NUM_LEVELS, dtype=torch.float64) + 0.5) / NUM_LEVELS
        objective = self._objective
        levels = SigmaDistribution.of(denoiser, objective.sigma_mean, objective.sigma_std).quantile(share)
        return [float(level) for level in levels]

    def _losses(self, denoiser: Denoiser, rows: Ints) -> Floats:
        """Return the loss of each scan (N,), the mean over the noise levels."""
        device = next(denoiser.parameters()).device
        losses = [
            self._loss(denoiser, rows[first : first + _BATCH], first, device)
            for first in range(0, len(rows), _BATCH)
        ]
        return np.concatenate(losses)

    def _loss(self, denoiser: Denoiser, rows: Ints, first: int, device: torch.device) -> Floats:
        clean = to_device(self._source.expected(rows), device)
        codes = to_device(torch.from_numpy(self._conditions.codes(rows)), device)
        wide = choices(device).wide
        total = torch.zeros(len(rows), dtype=wide, device=device)
        for level, sigma in enumerate(self._levels(denoiser)):
            # The noise depends on the position of the pair, so that both of its scans get the same noise.
            seeds = [stream_seed(self._seed, "gap", level, first + place) for place in range(len(rows))]
            sigmas = torch.full((len(rows),), sigma, device=device)
            noise = to_device(initial_noise(seeds, tuple(clean.shape[1:])), device)
            weight = denoiser.loss_weight(sigmas)
            total += denoising_loss(denoiser, clean, codes, sigma=sigmas, noise=noise, weight=weight).to(wide)
        mean: Floats = (total / NUM_LEVELS).cpu().double().numpy()
        return mean


def _pairs(cohort: Cohort, seed: int) -> tuple[Ints, Ints]:
    """Return rows of train scans and of val scans (N,), class by class, at most `MAX_PAIRS`."""
    generator = np.random.Generator(np.random.PCG64(stream_seed(seed, "gap pairs")))
    train: list[int] = []
    val: list[int] = []
    for label in range(len(cohort.info.classes)):
        seen, unseen = cohort.rows("train", label), cohort.rows("val", label)
        count = min(len(seen), len(unseen))
        train += generator.permutation(seen)[:count].tolist()
        val += generator.permutation(unseen)[:count].tolist()
    chosen = np.sort(generator.permutation(len(train))[:MAX_PAIRS])
    return np.array(train, dtype=np.int64)[chosen], np.array(val, dtype=np.int64)[chosen]
