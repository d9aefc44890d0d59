"""Optimiser step: random draws for the whole batch, this process's part of the gradient, and update."""

from __future__ import annotations

import torch
from torch import Tensor

from models.diffusion.augment import augment, draw_augmentation
from models.diffusion.denoiser import Denoiser
from models.diffusion.objective import SigmaDistribution, denoising_loss, drop_labels
from models.noise import stream_seed
from models.optim.compiling import Compute
from models.optim.distributed import GradientSum
from models.optim.ema import PowerFunctionAverages
from models.optim.optimiser import Optimiser
from models.optim.precision import DTYPES
from models.optim.working_copy import WorkingCopy
from pipeline.distributed.process_group import Ranks
from pipeline.train.latent.sources import LatentSource, PixelSource
from pipeline.train.machine_plan import MachinePlan
from pipeline.train.monitoring.timing import Timing
from pipeline.train.settings import TrainSettings

Drawn = tuple[Tensor, Tensor, Tensor, Tensor, Tensor | None]
"""Inputs of the loss: clean data, codes, noise levels, noise, augmentation features."""

REMEMBERED_STEPS = 10
"""Number of steps whose losses and noise levels are kept, to explain a loss that is not finite."""


class TrainingStep:
    """Weights, averages and optimiser of a training, and the update of one step.

    Random numbers come from streams derived from seed and step. They are drawn for the whole batch on every
    process, and each process uses its part. So the batch does not depend on the number of processes.

    Args:
        denoiser: the denoiser to train.
        settings: training settings.
        plan: what this machine computes with.
        ranks: the processes that share each batch.
        seed: run seed.
        timing: counts where the time goes.
        source: turns what was read into what is denoised.

    Attributes:
        losses: (REMEMBERED_STEPS, batch_size), of this process's scans; zero elsewhere.
        sigmas: (REMEMBERED_STEPS, batch_size), noise levels of all scans.
        share: this process's places in each batch.
        norms: (REMEMBERED_STEPS,), norms of the whole gradient before clipping.
    """

    stratified = True
    """Whether the noise levels of a batch are stratified, and so not drawn independently."""

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
    ) -> None:
        self._source = source
        self._schedule, self._objective = settings.schedule, settings.objective
        self._ranks, self._seed, self._timing = ranks, seed, timing
        self.device = plan.device
        self.denoiser = denoiser.to(plan.device).train()
        # The averages are copies: made before the layers of what computes may be changed.
        self.ema: PowerFunctionAverages[Denoiser] = PowerFunctionAverages(self.denoiser, settings.ema_lengths)
        self.working = WorkingCopy(self.denoiser, plan.precision, recompute=settings.checkpoint_activations)
        self.parameters = list(self.denoiser.parameters())
        self.optimizer = Optimiser(
            self.denoiser.named_parameters(),
            name=settings.optimizer,
            weight_decay=settings.weight_decay,
            dtype=DTYPES[plan.precision.dtype],
        )
        self._noise_levels = SigmaDistribution.of(
            denoiser, settings.sigma_mean, settings.sigma_std, stratified=self.stratified
        )
        self._gradient_sum = GradientSum(self.parameters) if ranks.exchanges else None
        self.share = ranks.share(settings.batch_size)
        self.micro_batch = min(plan.micro_batch or settings.batch_size, self.share.stop - self.share.start)
        shape = (REMEMBERED_STEPS, settings.batch_size)
        self.losses, self.sigmas = torch.zeros(shape), torch.zeros(shape)
        self.losses, self.sigmas = self.losses.to(plan.device), self.sigmas.to(plan.device)
        self.norms = torch.zeros(REMEMBERED_STEPS, device=plan.device)

    def run(self, step: int, images: Tensor, codes: Tensor, learning_rate: float) -> Tensor:
        """Do optimiser step `step` (counted from 0).

        Args:
            step: number of the step.
            images: data of the source for this process's scans (n, C, H, W), on the device.
            codes: condition codes of the scans (n, F) int64.
            learning_rate: learning rate of this step.

        Returns:
            The mean loss of the whole batch, a scalar on the device. It is not finite if the gradient was
            not.
        """
        loss = self._backward(step, images, codes)
        if self._gradient_sum is not None:
            with self._timing.part("exchange"), self._ranks.exchange():
                loss = self._gradient_sum.add_up(loss)
        with self._timing.part("optimizer"):
            norm = torch.nn.utils.clip_grad_norm_(self.parameters, self._schedule.gradient_clip)
            self.optimizer.step(learning_rate)
            self.working.clear_gradients()
            self.working.take_weights()
        with self._timing.part("average"):
            self.norms[step % REMEMBERED_STEPS].copy_(norm)
            if self._ranks.is_main:
                self.ema.update(step + 1)
        return loss + 0.0 * norm

    def _backward(self, step: int, images: Tensor, codes: Tensor) -> Tensor:
        """Store this process's part of the gradient in the master weights and return its part of the loss."""
        with self._timing.part("draw"):
            drawn = self._draw(step, images, codes)
        total = torch.zeros((), device=self.device)
        count = len(drawn[0])
        for first in range(0, count, self.micro_batch):
            part = slice(first, min(first + self.micro_batch, count))
            with self._timing.part("forward"):
                losses = self._losses(self.working.compute, drawn, part)
                # The sum of all parts of all processes is the mean over the whole batch.
                loss = losses.sum() / self._schedule.batch_size
            with self._timing.part("backward"):
                loss.backward()
                self.working.return_gradients(add=first > 0)
            total += loss.detach()
            self._remember(step, self.share.start + part.start, losses)
        return total

    def _losses(self, compute: Compute, drawn: Drawn, part: slice) -> Tensor:
        """Return the denoising losses (n,) of a part of the drawn inputs."""
        clean, codes, sigma, noise, features = drawn
        return denoising_loss(
            compute,
            clean[part],
            codes[part],
            sigma=sigma[part],
            noise=noise[part],
            weight=self.denoiser.loss_weight(sigma[part]),
            augment=features[part] if features is not None else None,
        )

    def _draw(self, step: int, images: Tensor, codes: Tensor) -> Drawn:
        """Draw the inputs of the loss for the whole batch.

        Returns:
            This process's clean data (n, C, H, W), codes (n, F), noise levels (n,), noise, and augmentation
            features (n, A) or None.
        """
        (count, share), spec = self._places(len(images)), self.denoiser.spec
        generator = torch.Generator(self.device).manual_seed(stream_seed(self._seed, "step", step))
        everyone = self.denoiser.null_codes(count, self.device).clone()
        everyone[share] = codes
        everyone = drop_labels(everyone, self._objective.label_dropout, spec.num_values, generator)
        sigma = self._noise_levels.sample(count, generator)
        self._remember_sigmas(step, sigma)
        noise = torch.randn((count, *self.denoiser.sample_shape), generator=generator, device=self.device)
        clean = self._source.clean(images, generator, count=count, share=share)
        features = None
        if self._objective.augment > 0.0:
            # Drawn last: without augmentation, all else is drawn as it always was.
            features = draw_augmentation(count, self._objective.augment, generator)[share]
            clean = augment(clean, features)
        return clean, everyone[share], sigma[share], noise[share], features

    def _places(self, count: int) -> tuple[int, slice]:
        """Return the scans of the whole batch, and this process's places in it, where it read `count`."""
        return self._schedule.batch_size, self.share

    def _remember_sigmas(self, step: int, sigma: Tensor) -> None:
        row = self.sigmas[step % REMEMBERED_STEPS]
        row[: len(sigma)].copy_(sigma[: len(row)])
        self.losses[step % REMEMBERED_STEPS].zero_()

    @torch.no_grad()
    def _remember(self, step: int, first: int, losses: Tensor) -> None:
        row = self.losses[step % REMEMBERED_STEPS][first : first + len(losses)]
        row.copy_(losses[: len(row)])
