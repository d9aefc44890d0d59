"""Training of the autoencoder, which is saved and resumed like that of the denoiser."""

from __future__ import annotations

import contextlib
import math
import time
from pathlib import Path

import torch

from models.latent.autoencoder import Autoencoder, autoencoder_loss
from models.noise import stream_seed
from models.optim.distributed import GradientSum
from models.optim.ema import PowerFunctionAverages
from models.optim.memory import out_of_memory
from models.optim.optimiser import Optimiser
from models.optim.working_copy import NarrowCopy
from pipeline.artifacts.cohort import Cohort
from pipeline.distributed.process_group import Ranks
from pipeline.errors import TrainingError, UsageError
from pipeline.storage import make_private_directory
from pipeline.train.batches import BatchPlan
from pipeline.train.latent.settings import LatentSettings
from pipeline.train.machine_plan import MachinePlan, shared_cores
from pipeline.train.monitoring.report import Report, open_report
from pipeline.train.parts import RuntimeSettings
from pipeline.train.prefetch import Feed, Gather
from pipeline.train.state import TrainingState, kept_words

FOLDER_NAME = "autoencoder"
REPORT_EVERY_STEPS = 10
EMA_LENGTH = 0.10
LARGEST_GRADIENT = 1.0
"""Norm to which the gradient of a step is clipped."""


class AutoencoderTrainer:
    """Training run of the autoencoder; `run` trains from the last saved state to the last step.

    The processes of a job share each batch, as for the denoiser.

    Args:
        cohort: cohort to train on; only its train split is used.
        folder: checkpoint directory, with states and progress in its folder `autoencoder/` (private). None on
            every process except the first.
        latent: settings of the autoencoder.
        plan: device, threads and precision, as chosen for the denoiser.
        ranks: processes that train together.
        runtime: intervals of saving, and other settings of the machine.
        seed: run seed.
        inputs_digest: digest of the inputs of the run.

    Raises:
        UsageError: there are more processes than scans per step.
    """

    def __init__(
        self,
        cohort: Cohort,
        folder: Path | None,
        latent: LatentSettings,
        plan: MachinePlan,
        ranks: Ranks,
        *,
        runtime: RuntimeSettings,
        seed: int,
        inputs_digest: str,
    ) -> None:
        self.latent, self.schedule, self.runtime = latent, latent.schedule, runtime
        self.folder = None if folder is None else make_private_directory(folder / FOLDER_NAME)
        self.ranks, self.seed = ranks, seed
        self.cores = shared_cores(plan, runtime)
        if self.latent.batch_size < ranks.size:
            raise UsageError(
                f"{ranks.size} processes cannot share a step of {self.latent.batch_size} scans",
                field="WORLD_SIZE",
                value=ranks.size,
                remedy="Start fewer processes, or raise train.latent.batch_size.",
            )
        spec = latent.autoencoder_spec(cohort.info.image_size)
        self.autoencoder = Autoencoder(spec, seed=stream_seed(seed, "autoencoder weights"))
        self.autoencoder.to(plan.device).train()
        self.working = NarrowCopy(self.autoencoder, plan.precision)
        self.ema = PowerFunctionAverages(self.autoencoder, [EMA_LENGTH])
        self.parameters = list(self.autoencoder.parameters())
        self.optimizer = Optimiser(self.autoencoder.named_parameters(), name="adamw", weight_decay=0.0)
        self.gradient_sum = GradientSum(self.parameters) if ranks.exchanges else None
        self.share = ranks.share(self.latent.batch_size)
        self.batches = BatchPlan(
            cohort,
            batch_size=self.latent.batch_size,
            class_balance=0.0,
            seed=stream_seed(seed, "autoencoder batches"),
        )
        self.feed = Feed(_gather(cohort, self.batches, self.share), plan.device)
        self.state = TrainingState(
            self.folder,
            model=self.autoencoder,
            ema=self.ema,
            optimizer=self.optimizer,
            inputs_digest=inputs_digest,
            aside=plan.device.type != "cpu",
        )

    def run(self) -> Autoencoder:
        """Train from the last saved state to the last step and return the averaged autoencoder.

        Raises:
            TrainingError: the loss is no longer finite; the last good state is kept.
        """
        latent = self.latent
        step = self.state.load_shared(self.ranks)
        self.working.take_weights()
        images = step * latent.batch_size
        with (
            contextlib.closing(self.feed),
            contextlib.closing(self.state),
            open_report(
                self.folder,
                step=step,
                num_steps=latent.num_steps,
                images=images,
                description="train autoencoder",
            ) as report,
        ):
            saved_at = time.monotonic()
            while step < latent.num_steps:
                report.count(self._guarded(step))
                step += 1
                self.cores.look()
                save = self._is_due(step, time.monotonic() - saved_at)
                at_report = step == latent.num_steps or step % REPORT_EVERY_STEPS == 0
                if save or at_report:
                    self._require_finite(report, step)
                if at_report:
                    report.write(
                        step=step,
                        images=step * latent.batch_size,
                        learning_rate=self.schedule.learning_rate_at(step - 1),
                    )
                if save:
                    self.state.save(step)
                    saved_at = time.monotonic()
        self.state.finish()
        # Only process 0 has the average.
        averaged = self.ema.models[EMA_LENGTH]
        self.ranks.broadcast_tensors(list(averaged.state_dict().values()))
        return averaged

    def step(self, step: int) -> torch.Tensor:
        """Do optimiser step `step` (counted from 0) and return the loss of the whole batch, a scalar.

        Random numbers come from streams derived from seed and step and are drawn for the whole batch on every
        process. The loss is not finite if the gradient was not.
        """
        batch_size, share = self.latent.batch_size, self.share
        (images,) = self.feed.take(step)
        generator = torch.Generator(images.device).manual_seed(
            stream_seed(self.seed, "autoencoder step", step)
        )
        shape = (batch_size, self.latent.latent_channels, *self.autoencoder.spec.latent_size)
        parts = autoencoder_loss(
            self.working.model,
            images,
            noise=torch.randn(shape, generator=generator, device=images.device)[share],
            gradient_weight=self.latent.gradient_weight,
            kl_weight=self.latent.kl_weight,
        )
        # The parts of all processes add up to the mean over the whole batch.
        loss = parts.total * (len(images) / batch_size)
        loss.backward()
        self.working.return_gradients()
        total = loss.detach()
        if self.gradient_sum is not None:
            with self.ranks.exchange():
                total = self.gradient_sum.add_up(total)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, LARGEST_GRADIENT)
        self.optimizer.step(self.schedule.learning_rate_at(step))
        self.working.clear_gradients()
        self.working.take_weights()
        if self.ranks.is_main:
            self.ema.update(step + 1)
        return total + 0.0 * norm

    def _guarded(self, step: int) -> torch.Tensor:
        try:
            return self.step(step)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        raise TrainingError(
            f"there is not enough memory for {self.latent.batch_size} scans a step of the autoencoder; "
            f"{kept_words(self.state.saved_step)}",
            field="train.latent.batch_size",
            value=self.latent.batch_size,
            remedy="Lower it, or take smaller train.latent.channels or a larger train.latent.patch_size.",
        )

    def _is_due(self, step: int, seconds: float) -> bool:
        last = step == self.latent.num_steps
        return self.folder is not None and (last or self.runtime.save_is_due(step, seconds))

    def _require_finite(self, report: Report, step: int) -> None:
        if math.isfinite(report.loss_sum):
            return
        raise TrainingError(
            f"the autoencoder's loss or its gradient is not finite by step {step}; "
            f"{kept_words(self.state.saved_step)}",
            field="train.latent.learning_rate",
            value=self.latent.learning_rate,
            remedy="Lower it, lengthen train.latent.warmup_steps, or set train.precision=fp32.",
        )


def _gather(cohort: Cohort, batches: BatchPlan, share: slice) -> Gather:
    """Return a function that reads this process's scans (n, 1, H, W) of a step."""
    return lambda step: (cohort.images(batches.rows(step)[share]),)
