"""One optimiser step of differentially private training."""

from __future__ import annotations

import torch
from torch import Tensor

from models.diffusion.denoiser import Denoiser
from models.noise import stream_seed
from models.optim.private_gradient import PrivateGradient
from pipeline.distributed.process_group import Ranks
from pipeline.train.latent.sources import LatentSource, PixelSource
from pipeline.train.machine_plan import MachinePlan
from pipeline.train.monitoring.timing import Timing
from pipeline.train.private.budget import PrivacyBudget
from pipeline.train.settings import TrainSettings
from pipeline.train.step import TrainingStep


class PrivateStep(TrainingStep):
    """A step whose gradient is the sum of one clipped gradient per patient, plus noise.

    Args:
        denoiser: the denoiser to train.
        settings: training settings.
        plan: machine plan; its precision is fp32.
        ranks: this process alone.
        seed: run seed.
        timing: measures the parts of the step.
        source: converts what was read into what is denoised.
        budget: noise multiplier, clipping norm and secret seed.
    """

    stratified = False

    def __init__(
        self,
        denoiser: Denoiser,
        settings: TrainSettings,
        plan: MachinePlan,
        ranks: Ranks,
        *,
        seed: int,
        timing: Timing,
        source: PixelSource | LatentSource,
        budget: PrivacyBudget,
    ) -> None:
        super().__init__(denoiser, settings, plan, ranks, seed=seed, timing=timing, source=source)
        self.share = slice(None)
        self._secret = budget.secret
        self._gradient = PrivateGradient(
            self.denoiser,
            noise_multiplier=budget.noise_multiplier,
            max_grad_norm=budget.max_grad_norm,
            expected_batch=settings.batch_size,
        )

    def _places(self, count: int) -> tuple[int, slice]:
        return count, slice(0, count)

    def _backward(self, step: int, images: Tensor, codes: Tensor) -> Tensor:
        """Store the private gradient in the master; return the mean loss of the scans, 0 without scans."""
        with self._timing.part("draw"):
            drawn = self._draw(step, images, codes)
        total = torch.zeros((), device=self.device)
        count = len(drawn[0])
        for first in range(0, count, self.micro_batch):
            part = slice(first, min(first + self.micro_batch, count))
            with self._timing.part("forward"):
                losses = self._losses(self._gradient.compute, drawn, part)
            with self._timing.part("backward"):
                self._gradient.add(losses)
            total += losses.detach().sum() / count
            self._remember(step, part.start, losses)
        with self._timing.part("backward"):
            seed = stream_seed(self._secret, "gradient noise", step)
            self._gradient.finish(torch.Generator(self.device).manual_seed(seed))
        return total
