"""The training loop: load or begin, then step, report, save, until the last step."""

from __future__ import annotations

import contextlib
import gc
import math
import time
from pathlib import Path

import torch

from models.allocator import held_memory
from models.checkpoint import write_tensors
from models.denoiser import Denoiser
from models.memory import out_of_memory
from models.network import NetworkSpec
from models.noise import stream_seed
from pipeline.cohort import Cohort
from pipeline.errors import UsageError
from pipeline.generator import INFO_NAME, MODEL_NAME, CheckpointInfo, library_versions
from pipeline.ranks import Ranks
from pipeline.storage import storage_errors, write_json
from pipeline.train.batches import BatchPlan
from pipeline.train.faults import not_finite, too_large
from pipeline.train.feed import Feed
from pipeline.train.plan import MachinePlan, make_plan, threads
from pipeline.train.report import Report, draw_grid, open_report
from pipeline.train.schedule import TimeBudget, learning_rate, num_steps_of
from pipeline.train.settings import TrainSettings
from pipeline.train.state import TrainingState
from pipeline.train.step import Step
from pipeline.train.timing import NoTiming, Timing

__all__ = ["Trainer", "learning_rate", "train"]

REPORT_EVERY_STEPS = 10


def train(
    cohort: Cohort,
    folder: Path | None,
    settings: TrainSettings,
    *,
    seed: int,
    inputs_digest: str,
    ranks: Ranks | None = None,
    timing: Timing | None = None,
) -> tuple[list[str], dict[str, int]]:
    """Train to the last step and write the checkpoint's files.

    Args:
        cohort: the cohort to learn from.
        folder: the checkpoint directory; None on every process but the first.
        settings: training settings.
        seed: run seed.
        inputs_digest: digest of the run's inputs.
        ranks: the processes that train together; None for this one alone.
        timing: counts where the time goes, if that is wanted.

    Returns:
        The names of the content files and the counts for the reference; nothing without a folder.

    Raises:
        TrainingError: the loss is no longer finite, or memory does not suffice.
        DataError: a class has no train scan, or an image holds values that are not finite.
        UsageError: there are more processes than scans a step.
        RankFailedError: another process failed.
    """
    ranks = ranks or Ranks()
    if settings.batch_size < ranks.size:
        raise UsageError(
            f"{ranks.size} processes cannot share a step of {settings.batch_size} scans",
            field="WORLD_SIZE",
            value=ranks.size,
            remedy=f"Start at most {settings.batch_size} processes, or raise train.batch_size.",
        )
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
        plan = make_plan(folder, denoiser, settings, ranks)
        with threads(plan.num_threads), torch.backends.cudnn.flags(deterministic=True, benchmark=False):
            trainer = Trainer(
                cohort,
                folder,
                settings,
                denoiser,
                plan,
                seed=seed,
                inputs_digest=inputs_digest,
                ranks=ranks,
                timing=timing,
            )
            num_steps = trainer.run()
    if folder is None:
        return [], {}
    return _write_checkpoint(
        cohort, folder, settings, trainer.ema.model, trainer.plan, num_steps=num_steps, seed=seed
    )


class Trainer:
    """One training run in memory; `run` takes it from its last saved state to its last step.

    Args:
        cohort: the cohort to learn from.
        folder: the checkpoint directory; None on every process but the first.
        settings: training settings.
        denoiser: the denoiser with its initial weights.
        plan: what this machine computes with.
        seed: run seed.
        inputs_digest: digest of the run's inputs.
        ranks: the processes that train together; None for this one alone.
        timing: counts where the time goes, if that is wanted.
    """

    def __init__(
        self,
        cohort: Cohort,
        folder: Path | None,
        settings: TrainSettings,
        denoiser: Denoiser,
        plan: MachinePlan,
        *,
        seed: int,
        inputs_digest: str,
        ranks: Ranks | None = None,
        timing: Timing | None = None,
    ) -> None:
        self.folder, self.settings, self.plan, self.seed = folder, settings, plan, seed
        self.ranks, self.timing = ranks or Ranks(), timing or NoTiming()
        self.device = plan.device
        self.one_step = Step(denoiser, settings, plan, self.ranks, seed=seed, timing=self.timing)
        self.denoiser, self.ema = self.one_step.denoiser, self.one_step.ema
        self.optimizer, self.parameters = self.one_step.optimizer, self.one_step.parameters
        batches = BatchPlan(
            cohort,
            batch_size=settings.batch_size,
            class_balance=settings.class_balance,
            horizontal_flip=settings.horizontal_flip,
            seed=seed,
        )
        self.feed = Feed(cohort, batches, self.one_step.share, plan.device)
        self.state = TrainingState(
            folder, model=self.denoiser, ema=self.ema, optimizer=self.optimizer, inputs_digest=inputs_digest
        )
        self.budget = TimeBudget(settings, plan.decisions) if settings.max_minutes is not None else None
        self.saved_step = 0

    @property
    def num_steps(self) -> int:
        """Optimiser steps of the whole training, as decided so far."""
        return num_steps_of(self.settings, self.plan.decisions)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of step `step` (counted from 0)."""
        return learning_rate(step, self.settings, self.plan.decisions)

    def run(self) -> int:
        """Train from the last saved state to the last step; saves at intervals and at the end.

        Returns:
            The optimiser steps of the whole training.
        """
        step = self.saved_step = self.state.load_shared(self.ranks)
        self.one_step.working.take_weights()
        images = step * self.settings.batch_size
        with (
            contextlib.closing(self.feed),
            open_report(self.folder, step=step, num_steps=self.num_steps, images=images) as report,
            self.timing.part("wall"),
        ):
            report.set_total(self.num_steps)
            saved_at = time.monotonic()
            while step < self.num_steps:
                report.count(self._guarded(step))
                step += 1
                self._review(step, report)
                last = step == self.num_steps
                at_report = last or step % REPORT_EVERY_STEPS == 0
                finite = self._require_finite(step, report, at_report=at_report)
                if at_report:
                    with self.timing.part("report"):
                        report.write(
                            step=step,
                            images=step * self.settings.batch_size,
                            learning_rate=self.learning_rate(step - 1),
                        )
                if self._save(step, last=last, saved_at=saved_at, finite=finite, report=report):
                    saved_at = time.monotonic()
                if self.folder is not None and _is_multiple(step, self.settings.grid_every_steps):
                    with self.timing.part("grid"):
                        draw_grid(self.folder, self.ema.model, self.plan.precision, step=step, seed=self.seed)
        return step

    def step(self, step: int) -> torch.Tensor:
        """Do optimiser step `step` (counted from 0) and return its mean loss, a scalar on the device.

        The returned loss is not finite if the gradient was not.
        """
        with self.timing.part("data"):
            images, labels = self.feed.take(step)
        return self.one_step.run(step, images, labels, self.learning_rate(step))

    def _guarded(self, step: int) -> torch.Tensor:
        try:
            return self.step(step)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # Outside of the handler: the error holds the frames, and they all the tensors of the step.
        gc.collect()
        raise too_large(self.one_step, self.settings, saved_step=self.saved_step)

    def _review(self, step: int, report: Report) -> None:
        """Under a time budget, let process 0 decide how many steps fit, and record it before going on."""
        if self.budget is None or (self.plan.decisions and step % REPORT_EVERY_STEPS):
            return
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        decided = self.budget.review(step, report.seconds) if self.ranks.is_main else None
        decided = self.ranks.same(decided)
        if decided is None:
            return
        self.plan = self.plan.with_decision((int(decided[0]), int(decided[1])))
        if self.folder is not None:
            self.plan.write(self.folder)
        report.set_total(self.num_steps)

    def _require_finite(self, step: int, report: Report, *, at_report: bool) -> bool:
        """Stop a training whose loss is not finite; return whether it was looked at and is.

        On a GPU looking means waiting, so it is done at reports only: at those all processes look.
        """
        if not (at_report or self.device.type == "cpu"):
            return False
        if not math.isfinite(report.loss_sum):
            raise not_finite(
                self.one_step,
                step,
                self.settings,
                self.plan.precision,
                self.ranks,
                learning_rate=self.learning_rate(step - 1),
                saved_step=self.ranks.same(self.saved_step),
            )
        return True

    def _save(self, step: int, *, last: bool, saved_at: float, finite: bool, report: Report) -> bool:
        """Save if it is time to; never weights that are not finite."""
        due = (
            last
            or time.monotonic() - saved_at >= self.settings.checkpoint_every_seconds
            or _is_multiple(step, self.settings.checkpoint_every_steps)
        )
        if self.folder is None or not due or not (finite or math.isfinite(report.loss_sum)):
            return False
        with self.timing.part("save"):
            self.state.save(step)
        self.saved_step = step
        return True


def _is_multiple(step: int, interval: int) -> bool:
    return interval > 0 and step % interval == 0


def _write_checkpoint(
    cohort: Cohort,
    folder: Path,
    settings: TrainSettings,
    denoiser: Denoiser,
    plan: MachinePlan,
    *,
    num_steps: int,
    seed: int,
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
        num_steps=num_steps,
        images_seen=num_steps * settings.batch_size,
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
