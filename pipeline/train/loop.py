"""Training loop: load the saved state, then step, report and save until the last step."""

from __future__ import annotations

import contextlib
import gc
import math
import time
from pathlib import Path

import torch

from models.devices import computing, default_device, synchronise
from models.diffusion.denoiser import Denoiser
from models.network.network import NetworkSpec
from models.noise import stream_seed
from models.optim.allocator import held_memory
from models.optim.memory import out_of_memory
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.conditions import CohortConditions
from pipeline.cost.time_budget import TimeBudget
from pipeline.distributed.cpu_threads import threads
from pipeline.distributed.process_group import Ranks
from pipeline.errors import UsageError
from pipeline.train.export import ChosenAverage, write_checkpoint
from pipeline.train.fine_tuning import Start, network_to_train, start_from
from pipeline.train.latent.sources import LatentSource, PixelSource, open_source
from pipeline.train.machine_plan import MachinePlan, make_plan, shared_cores
from pipeline.train.monitoring.diagnosis import not_finite, too_large
from pipeline.train.monitoring.early_stopping import MemorisationWatch
from pipeline.train.monitoring.memorisation_gap import PairedScans
from pipeline.train.monitoring.report import Report, draw_grid, open_report
from pipeline.train.monitoring.timing import NoTiming, Timing
from pipeline.train.prefetch import Feed, scans_of
from pipeline.train.private.budget import PrivacyBudget, make_budget
from pipeline.train.private.poisson_sampler import draw_of
from pipeline.train.private.step import PrivateStep
from pipeline.train.settings import TrainSettings
from pipeline.train.snapshots import Snapshots
from pipeline.train.state import TrainingState
from pipeline.train.step import TrainingStep

REPORT_EVERY_STEPS = 10


def train(
    cohort: Cohort,
    folder: Path | None,
    settings: TrainSettings,
    *,
    seed: int,
    inputs_digest: str,
    init_digest: str | None = None,
    ranks: Ranks | None = None,
    timing: Timing | None = None,
) -> tuple[list[str], dict[str, int]]:
    """Train to the last step and write the checkpoint's files.

    Args:
        cohort: cohort to train on.
        folder: checkpoint directory; None on every process except the first.
        settings: training settings.
        seed: run seed.
        inputs_digest: digest of the inputs of the run.
        init_digest: digest of the checkpoint of `train.init_from`. None on every process except the first,
            which sends its weights to the others.
        ranks: processes that train together; None for this one alone.
        timing: measures the time of the parts of the training, if given.

    Returns:
        The names of the content files and the counts for the reference; empty without a folder.

    Raises:
        TrainingError: the loss is not finite, or there is not enough memory.
        DataError: a class has no train scan, or an image has values that are not finite.
        UsageError: there are more processes than scans per step.
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
    if settings.is_private and ranks.size > 1:
        raise UsageError(
            "a private training keeps its secret in one process",
            field="WORLD_SIZE",
            value=ranks.size,
            remedy="Start one process, or train without train.dp.epsilon.",
        )
    budget = make_budget(cohort, folder, settings.dp, settings.schedule) if folder is not None else None
    conditions = CohortConditions(cohort, settings.conditions)
    data = settings.data_fields(cohort.info.image_size)
    # Process 0 alone reads the checkpoint to start from.
    chosen = network_to_train(settings, cohort.info.image_size) if ranks.is_main else None
    layers, parametrisation = ranks.broadcast(chosen)
    spec = NetworkSpec.from_dict(
        {
            **data,
            "num_classes": len(cohort.info.classes),
            "conditions": conditions.num_values,
            **layers,
        }
    )
    weights = stream_seed(seed, "weights")
    denoiser = Denoiser(spec, sigma_data=settings.sigma_data, parametrisation=parametrisation, seed=weights)
    start: Start | None = None
    if settings.init_from is not None and init_digest is not None:
        fields = [("class", cohort.info.classes), *((own.name, own.values) for own in conditions.fields)]
        start = start_from(denoiser, settings.init_from, fields, digest=init_digest)
    with held_memory(), computing(default_device()):
        plan = make_plan(
            folder,
            denoiser,
            settings.runtime,
            settings.schedule,
            ranks,
            averages=len(settings.ema_lengths),
            private=settings.is_private,
        )
        with threads(plan.num_threads):
            source = open_source(
                cohort,
                folder,
                settings.latent,
                plan,
                ranks,
                runtime=settings.runtime,
                sigma_data=settings.sigma_data,
                seed=seed,
                inputs_digest=inputs_digest,
            )
            trainer = Trainer(
                cohort,
                folder,
                settings,
                denoiser,
                plan,
                conditions=conditions,
                source=source,
                seed=seed,
                inputs_digest=inputs_digest,
                ranks=ranks,
                timing=timing,
                budget=budget,
            )
            num_steps = trainer.run()
    if folder is None:
        return [], {}
    return write_checkpoint(
        cohort,
        folder,
        settings,
        trainer.chosen_average(num_steps),
        trainer.plan,
        conditions=conditions,
        num_steps=num_steps,
        start=start,
        seed=seed,
        autoencoder=source.autoencoder,
        budget=budget,
    )


class Trainer:
    """Training run in memory; `run` trains from the last saved state to the last step.

    Args:
        cohort: cohort to train on.
        folder: checkpoint directory; None on every process except the first.
        settings: training settings.
        denoiser: denoiser with its initial weights.
        plan: device, threads and precision of this machine.
        source: data source of the denoiser.
        seed: run seed.
        inputs_digest: digest of the inputs of the run.
        conditions: conditions of each scan; None reads them according to the settings.
        ranks: processes that train together; None for this one alone.
        timing: measures the time of the parts of the training, if given.
        budget: budget of a differentially private training.
    """

    def __init__(
        self,
        cohort: Cohort,
        folder: Path | None,
        settings: TrainSettings,
        denoiser: Denoiser,
        plan: MachinePlan,
        *,
        source: PixelSource | LatentSource,
        seed: int,
        inputs_digest: str,
        conditions: CohortConditions | None = None,
        ranks: Ranks | None = None,
        timing: Timing | None = None,
        budget: PrivacyBudget | None = None,
    ) -> None:
        conditions = conditions or CohortConditions(cohort, settings.conditions)
        self.folder, self.plan, self.seed = folder, plan, seed
        self.schedule, self.runtime, self.averages = settings.schedule, settings.runtime, settings.averages
        self.ranks, self.timing = ranks or Ranks(), timing or NoTiming()
        self.device, self.source = plan.device, source
        self.one_step: TrainingStep
        if budget is None:
            self.one_step = TrainingStep(
                denoiser, settings, plan, self.ranks, seed=seed, timing=self.timing, source=source
            )
        else:
            self.one_step = PrivateStep(
                denoiser,
                settings,
                plan,
                self.ranks,
                seed=seed,
                timing=self.timing,
                source=source,
                budget=budget,
            )
        self.denoiser, self.ema = self.one_step.denoiser, self.one_step.ema
        self.optimizer, self.parameters = self.one_step.optimizer, self.one_step.parameters
        batches = draw_of(cohort, settings.scans, settings.batch_size, seed, budget)
        self.feed = Feed(scans_of(batches, source, conditions, self.one_step.share), plan.device)
        self.state = TrainingState(
            folder,
            model=self.denoiser,
            ema=self.ema,
            optimizer=self.optimizer,
            inputs_digest=inputs_digest,
            aside=plan.device.type != "cpu",
        )
        self.snapshots = Snapshots(folder, self.averages)
        self.watch: MemorisationWatch | None = None
        if folder is not None:
            scans = PairedScans(cohort, source, conditions, settings.objective, seed)
            self.watch = MemorisationWatch(scans, folder, self.averages, self.snapshots)
        self.stopped = False
        self.budget: TimeBudget | None = None
        if settings.max_minutes is not None:
            self.budget = TimeBudget(60.0 * settings.max_minutes, settings.num_steps, plan.decisions)

    @property
    def num_steps(self) -> int:
        """Total number of optimiser steps as decided so far; training may stop earlier."""
        return self.schedule.num_steps_of(self.plan.decisions)

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of step `step` (counted from 0)."""
        return self.schedule.learning_rate_at(step, self.plan.decisions)

    def run(self) -> int:
        """Train from the last saved state to the last step. Saves at intervals and at the end.

        Returns:
            The number of optimiser steps.
        """
        step = self.state.load_shared(self.ranks)
        self.one_step.working.take_weights()
        self._resume_snapshots(step)
        images = step * self.schedule.batch_size
        with (
            contextlib.closing(self.feed),
            contextlib.closing(self.state),
            open_report(self.folder, step=step, num_steps=self.num_steps, images=images) as report,
            self.timing.part("wall"),
        ):
            report.set_total(self.num_steps)
            saved_at = time.monotonic()
            cores = shared_cores(self.plan, self.runtime)
            while step < self.num_steps and not self.stopped:
                report.count(self._guarded(step))
                step += 1
                cores.look()
                self._review(step, report)
                self._snapshot(step, report)
                last = self.stopped or step == self.num_steps
                at_report = last or step % REPORT_EVERY_STEPS == 0
                finite = self._require_finite(step, report, at_report=at_report)
                if at_report:
                    with self.timing.part("report"):
                        report.write(
                            step=step,
                            images=step * self.schedule.batch_size,
                            learning_rate=self.learning_rate(step - 1),
                        )
                if self._save(step, last=last, saved_at=saved_at, finite=finite, report=report):
                    saved_at = time.monotonic()
                if self.folder is not None and self.runtime.grid_is_due(step):
                    with self.timing.part("grid"):
                        draw_grid(
                            self.folder,
                            self.ema.nearest(self.averages.ema_length),
                            self.plan.precision,
                            step=step,
                            seed=self.seed,
                            autoencoder=self.source.autoencoder,
                        )
        return step

    def chosen_average(self, step: int) -> ChosenAverage:
        """Return the average that becomes the model after `step` steps, on process 0."""
        kept = (self.watch.kept_step if self.watch is not None else None) or step
        tensors = self.snapshots.chosen(self.ema, kept, newest=kept == step)
        return ChosenAverage(tensors, self.denoiser, kept, self.snapshots.until(kept))

    def step(self, step: int) -> torch.Tensor:
        """Do optimiser step `step` (counted from 0) and return its mean loss, a scalar on the device.

        The returned loss is not finite if the gradient was not.
        """
        with self.timing.part("data"):
            images, codes = self.feed.take(step)
        return self.one_step.run(step, images, codes, self.learning_rate(step))

    def _resume_snapshots(self, step: int) -> None:
        """Restore the snapshots and the memorisation curve of `step`. All processes call it."""
        self.snapshots.resume(step)
        if self.watch is not None:
            self.watch.resume(step, self.denoiser, self.plan.precision)
        self.stopped = bool(self.ranks.broadcast(self.watch is not None and self.watch.kept_step is not None))

    def _snapshot(self, step: int, report: Report) -> None:
        """Take a snapshot if it is due, and stop if its gap requires it. All processes call it together."""
        if not self.snapshots.due(step, self.schedule.num_steps_at(step, self.plan.decisions)):
            return
        self._require_finite(step, report, at_report=True)
        stop = False
        if self.watch is not None:
            with self.timing.part("snapshot"):
                self.snapshots.take(step, self.ema)
                stop = self.watch.look(step, self.denoiser, self.plan.precision)
        self.stopped = bool(self.ranks.broadcast(stop))

    def _guarded(self, step: int) -> torch.Tensor:
        try:
            return self.step(step)
        except (RuntimeError, MemoryError) as error:
            if not out_of_memory(error):
                raise
        # Outside of the handler, because the error holds the frames, with all tensors of the step.
        gc.collect()
        raise too_large(
            self.one_step,
            recomputes=self.runtime.checkpoint_activations,
            saved_step=self.state.saved_step,
        )

    def _review(self, step: int, report: Report) -> None:
        """With a time budget, let process 0 decide the number of steps and record it before the next step."""
        if self.budget is None or (self.plan.decisions and step % REPORT_EVERY_STEPS):
            return
        synchronise(self.device)
        decided = self.budget.review(step, report.seconds) if self.ranks.is_main else None
        decided = self.ranks.broadcast(decided)
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
                self.schedule,
                self.plan.precision,
                self.ranks,
                learning_rate=self.learning_rate(step - 1),
                saved_step=self.ranks.broadcast(self.state.saved_step),
            )
        return True

    def _save(self, step: int, *, last: bool, saved_at: float, finite: bool, report: Report) -> bool:
        """Save if it is time to; never weights that are not finite."""
        due = last or self.runtime.save_is_due(step, time.monotonic() - saved_at)
        if self.folder is None or not due or not (finite or math.isfinite(report.loss_sum)):
            return False
        with self.timing.part("save"):
            self.state.save(step)
            if last:
                self.state.finish()
        return True
