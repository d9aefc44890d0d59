"""Diagnoses a failed training: a loss or gradient that is not finite, or too little memory."""

from __future__ import annotations

import torch

from models.optim.memory import largest_that_fits
from models.optim.precision import Precision, trial_batch
from pipeline.distributed.process_group import Ranks
from pipeline.errors import TrainingError
from pipeline.train.parts import ScheduleSettings
from pipeline.train.state import kept_words
from pipeline.train.step import REMEMBERED_STEPS, TrainingStep


def not_finite(
    step: TrainingStep,
    done: int,
    schedule: ScheduleSettings,
    precision: Precision,
    ranks: Ranks,
    *,
    learning_rate: float,
    saved_step: int,
) -> TrainingError:
    """Return an error that names the first step that is not finite and a remedy. All processes must call it.

    Args:
        step: the optimiser step, which remembers its last losses.
        done: number of steps done.
        schedule: schedule of the training.
        precision: precision of the training.
        ranks: the processes of the job.
        learning_rate: learning rate of the last step.
        saved_step: step of the newest saved state; 0 if there is none.
    """
    losses = step.losses.clone()
    if ranks.size > 1:
        from torch.distributed import all_reduce

        with ranks.exchange():
            all_reduce(losses)
    number, bad = _first_bad(losses, step.norms, done)
    row = (number - 1) % REMEMBERED_STEPS
    if bad.any():
        sigmas = step.sigmas[row][bad]
        what = (
            f"the loss of step {number} is not finite for {int(bad.sum())} of {schedule.batch_size} scans, "
            f"at noise levels {float(sigmas.min()):.3g} to {float(sigmas.max()):.3g}"
        )
    else:
        what = f"the gradient of step {number} is not finite, though all its losses are"
    problem = (
        f"{what}; the scans themselves are finite; learning rate {learning_rate:.2g}, {precision.name}; "
        f"{kept_words(saved_step)}"
    )
    if precision.dtype != "fp32":
        return TrainingError(
            problem,
            field="train.precision",
            value=precision.dtype,
            remedy="Set train.precision=fp32. If that does not help, lower train.learning_rate.",
        )
    lower = f"Set train.learning_rate={schedule.learning_rate / 3:.2g}"
    longer = max(2 * schedule.warmup_steps, 100)
    early = number <= longer
    return TrainingError(
        problem,
        field="train.learning_rate",
        value=schedule.learning_rate,
        remedy=f"{lower}, or train.warmup_steps={longer}." if early else f"{lower}.",
    )


def _first_bad(losses: torch.Tensor, norms: torch.Tensor, done: int) -> tuple[int, torch.Tensor]:
    """Return the first step that is not finite (counted from 1), and (N,) True for losses not finite."""
    for number in range(max(done - REMEMBERED_STEPS, 0) + 1, done + 1):
        row = (number - 1) % REMEMBERED_STEPS
        bad = ~torch.isfinite(losses[row])
        if bad.any() or not torch.isfinite(norms[row]):
            return number, bad
    return done, torch.zeros_like(losses[0], dtype=torch.bool)


def too_large(step: TrainingStep, *, recomputes: bool, saved_step: int) -> TrainingError:
    """Return an error that names the largest micro-batch that fits, found by trials of repeated halves.

    Args:
        step: the step that ran out of memory; nothing may refer to tensors of its computation.
        recomputes: whether `train.checkpoint_activations` is set.
        saved_step: step of the newest saved state; 0 if there is none.
    """
    working = step.working

    def attempt(size: int) -> None:
        try:
            trial_batch(working.denoiser, size, working.compute)
        finally:
            working.drop_gradients()

    working.drop_gradients()
    fits = largest_that_fits(attempt, step.micro_batch)
    recompute = "" if recomputes else " Or set train.checkpoint_activations=true."
    if fits:
        remedy = (
            f"Set train.micro_batch={fits}, which fits in a trial. Training then resumes from a saved state, "
            f"and its weights are equal up to rounding.{recompute}"
        )
    else:
        remedy = f"Not even one scan fits. Reduce train.channels or use a device with more memory.{recompute}"
    return TrainingError(
        f"not enough memory for {step.micro_batch} scans at a time; {kept_words(saved_step)}",
        field="train.micro_batch",
        value=step.micro_batch,
        remedy=remedy,
    )
