"""The training loop: load or begin, then step, report, save, until the last step."""

from __future__ import annotations

import copy
import math
import time
from pathlib import Path

import torch

from models.allocator import held_memory
from models.checkpoint import write_tensors
from models.denoiser import Denoiser
from models.ema import ExponentialMovingAverage
from models.network import NetworkSpec
from models.noise import stream_seed
from models.objective import SigmaDistribution, denoising_loss, drop_labels
from models.precision import apply_precision
from models.working_copy import WorkingCopy
from pipeline.cohort import Cohort
from pipeline.errors import TrainingError
from pipeline.generator import INFO_NAME, MODEL_NAME, CheckpointInfo, library_versions
from pipeline.progress import track
from pipeline.storage import storage_errors, write_json
from pipeline.train.batches import BatchPlan, load_batch
from pipeline.train.grid import write_grid
from pipeline.train.history import History
from pipeline.train.plan import MachinePlan, make_plan, threads
from pipeline.train.settings import TrainSettings
from pipeline.train.state import TrainingState

REPORT_EVERY_STEPS = 10
BETAS = (0.9, 0.99)


def train(
    cohort: Cohort, folder: Path, settings: TrainSettings, *, seed: int, inputs_digest: str
) -> tuple[list[str], dict[str, int]]:
    """Train to the last step and write the checkpoint's files.

    Returns:
        The names of the content files and the counts for the reference.

    Raises:
        TrainingError: the loss is no longer finite.
    """
    spec = NetworkSpec.from_dict(
        {
            "image_size": cohort.info.image_size,
            "num_classes": len(cohort.info.classes),
            **settings.network_fields(),
        }
    )
    denoiser = Denoiser(
        spec,
        sigma_data=settings.sigma_data,
        parametrisation=settings.parametrisation,
        seed=stream_seed(seed, "weights"),
    )
    with held_memory():
        plan = make_plan(folder, denoiser, settings)
        with threads(plan.num_threads), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
            trainer = Trainer(
                cohort, folder, settings, denoiser, plan, seed=seed, inputs_digest=inputs_digest
            )
            trainer.run()
    return _write_checkpoint(cohort, folder, settings, trainer.ema.model, plan, seed=seed)


class Trainer:
    """One training run in memory; `run` takes it from its last saved state to its last step."""

    def __init__(
        self,
        cohort: Cohort,
        folder: Path,
        settings: TrainSettings,
        denoiser: Denoiser,
        plan: MachinePlan,
        *,
        seed: int,
        inputs_digest: str,
    ) -> None:
        self.cohort, self.folder, self.settings, self.seed = cohort, folder, settings, seed
        self.device = plan.device
        self.precision = plan.precision
        self.denoiser = denoiser.to(plan.device).train()
        self.working = WorkingCopy(self.denoiser, plan.precision)
        self.ema: ExponentialMovingAverage[Denoiser] = ExponentialMovingAverage(
            self.denoiser, half_life=settings.ema_half_life, ramp_share=settings.ema_ramp_share
        )
        self.optimizer = torch.optim.AdamW(
            self.denoiser.parameters(),
            lr=settings.learning_rate,
            betas=BETAS,
            weight_decay=settings.weight_decay,
            fused=True,
        )
        self.parameters = list(self.denoiser.parameters())
        self.sigmas = SigmaDistribution(settings.sigma_mean, settings.sigma_std)
        self.plan = BatchPlan(
            cohort,
            batch_size=settings.batch_size,
            class_balance=settings.class_balance,
            horizontal_flip=settings.horizontal_flip,
            seed=seed,
        )
        self.state = TrainingState(
            folder, model=self.denoiser, ema=self.ema, optimizer=self.optimizer, inputs_digest=inputs_digest
        )

    def run(self) -> None:
        """Train from the last saved state to the last step; saves at intervals and at the end."""
        settings = self.settings
        step = saved_step = self.state.load_newest()
        self.working.take_weights()
        history = History(self.folder, step)
        loss_sum, num_losses = torch.zeros((), device=self.device), 0
        with track("train", settings.num_steps, done=step, unit="steps") as progress:
            history.restart_clock(step * settings.batch_size)
            saved_at = time.monotonic()
            while step < settings.num_steps:
                loss_sum += self.step(step)
                num_losses += 1
                step += 1

                last = step == settings.num_steps
                save = (
                    last
                    or time.monotonic() - saved_at >= settings.checkpoint_every_seconds
                    or _is_multiple(step, settings.checkpoint_every_steps)
                )
                if save or step % REPORT_EVERY_STEPS == 0 or self.device.type == "cpu":
                    self._require_finite(float(loss_sum), step, saved_step)
                if last or step % REPORT_EVERY_STEPS == 0:
                    loss = float(loss_sum) / num_losses
                    rate = history.add(
                        step=step,
                        images=step * settings.batch_size,
                        loss=loss,
                        learning_rate=learning_rate(step - 1, settings),
                    )
                    progress.update(num_losses, loss=loss, images_per_second=rate)
                    loss_sum.zero_()
                    num_losses = 0
                if save:
                    self.state.save(step)
                    saved_step, saved_at = step, time.monotonic()
                if _is_multiple(step, settings.grid_every_steps):
                    averaged = apply_precision(copy.deepcopy(self.ema.model), self.precision)
                    write_grid(self.folder, averaged, step=step, seed=self.seed)

    def step(self, step: int) -> torch.Tensor:
        """Do optimiser step `step` (counted from 0) and return its mean loss, a scalar on the device.

        All that is random comes from streams derived from seed and step. The returned loss is not finite if
        the gradient was not.
        """
        settings = self.settings
        images, labels = (
            torch.from_numpy(array).to(self.device, non_blocking=True)
            for array in load_batch(self.cohort, self.plan.batch(step))
        )
        generator = torch.Generator(self.device).manual_seed(stream_seed(self.seed, "step", step))
        codes = self.denoiser.expand(labels)
        codes = drop_labels(codes, settings.label_dropout, self.denoiser.spec.num_values, generator)
        sigma = self.sigmas.sample(len(images), generator)
        noise = torch.randn(images.shape, generator=generator, device=self.device)

        losses = denoising_loss(
            self.working.denoiser,
            images,
            codes,
            sigma=sigma,
            noise=noise,
            sigma_data=settings.sigma_data,
            parametrisation=settings.parametrisation,
        )
        loss = losses.mean()
        loss.backward()
        self.working.return_gradients()
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, settings.gradient_clip, foreach=True)
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        self.optimizer.step()
        self.working.clear_gradients()
        self.working.take_weights()
        self.ema.update(step * settings.batch_size, settings.batch_size)
        return loss.detach() + 0.0 * norm

    def _require_finite(self, loss: float, step: int, saved_step: int) -> None:
        if math.isfinite(loss):
            return
        kept = f"the state of step {saved_step} is kept" if saved_step else "no state was saved yet"
        raise TrainingError(
            f"the loss or its gradient is not finite by step {step}; {kept}",
            field="train.learning_rate",
            value=self.settings.learning_rate,
            remedy="Lower it, lengthen train.warmup_steps, or set train.precision=fp32.",
        )


def learning_rate(step: int, settings: TrainSettings) -> float:
    """Return the learning rate of step `step` (counted from 0): linear warm-up, then the chosen decay."""
    rate = settings.learning_rate
    if step < settings.warmup_steps:
        return rate * (step + 1) / settings.warmup_steps
    if settings.learning_rate_decay == "none":
        return rate
    share = (step - settings.warmup_steps) / max(settings.num_steps - settings.warmup_steps, 1)
    return rate * 0.5 * (1.0 + math.cos(math.pi * share))


def _is_multiple(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def _write_checkpoint(
    cohort: Cohort, folder: Path, settings: TrainSettings, denoiser: Denoiser, plan: MachinePlan, *, seed: int
) -> tuple[list[str], dict[str, int]]:
    info = CheckpointInfo(
        network=denoiser.spec.to_dict(),
        sigma_data=denoiser.sigma_data,
        parametrisation=denoiser.parametrisation,
        classes=cohort.info.classes,
        image_size=cohort.info.image_size,
        bit_depth=cohort.info.bit_depth,
        cohort_digest=cohort.digest,
        cohort_name=cohort.info.name,
        num_steps=settings.num_steps,
        images_seen=settings.num_steps * settings.batch_size,
        seed=seed,
        precision=plan.precision.dtype,
        channels_last=plan.precision.channels_last,
        num_threads=plan.num_threads,
        device=plan.device.type,
        libraries=library_versions(),
    )
    body = info.model_dump(mode="json")
    with storage_errors(folder / MODEL_NAME):
        write_tensors(folder / MODEL_NAME, denoiser.state_dict(), {"checkpoint": body})
    write_json(folder / INFO_NAME, body, private=True)
    counts = {
        "steps": info.num_steps,
        "images": info.images_seen,
        "parameters": sum(parameter.numel() for parameter in denoiser.parameters()),
    }
    return [MODEL_NAME, INFO_NAME], counts
