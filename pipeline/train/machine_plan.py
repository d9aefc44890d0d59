"""Choices of the machine for a training, recorded once and used on every resume."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.devices import choices, default_device
from models.diffusion.denoiser import Denoiser
from models.optim.memory import step_bytes
from models.optim.precision import Precision, apply_precision, probe_compiled, probe_precision
from pipeline.cost.time_budget import Decision
from pipeline.distributed.cpu_threads import SharedCores, threads, threads_here
from pipeline.distributed.process_group import Ranks
from pipeline.errors import DataError, UsageError
from pipeline.storage import read_json, write_json
from pipeline.train.memory_plan import scans_that_fit
from pipeline.train.parts import RuntimeSettings, ScheduleSettings

logger = logging.getLogger(__name__)

FILE_NAME = "machine.json"


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: str
    channels_last: bool
    compiled: bool = False
    graphs: bool = False
    measured: dict[str, float]
    num_threads: int = Field(ge=1)
    device: str
    world_size: int = Field(1, ge=1)
    micro_batch: int | None = Field(None, ge=1)
    decisions: tuple[Decision, ...] = ()


@dataclass(frozen=True)
class MachinePlan:
    """Device, threads, precision and processes of a training on this machine.

    Attributes:
        device: device of the network.
        num_threads: CPU threads per process.
        precision: precision of the network.
        world_size: number of processes.
        micro_batch: scans in memory at a time per process; None for its whole share.
        decisions: decisions on the number of steps in the time budget.
    """

    device: torch.device
    num_threads: int
    precision: Precision
    world_size: int = 1
    micro_batch: int | None = None
    decisions: tuple[Decision, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-ready values, as in `machine.json`."""
        return {
            **self.precision.to_dict(),
            "num_threads": self.num_threads,
            "device": self.device.type,
            "world_size": self.world_size,
            "micro_batch": self.micro_batch,
            "decisions": [list(decision) for decision in self.decisions],
        }

    @classmethod
    def from_dict(cls, values: Any) -> MachinePlan:
        """Return the plan of the values of `to_dict`.

        Raises:
            ValueError: a value is missing, unknown or out of range.
        """
        record = _Record.model_validate(values)
        precision = Precision(
            record.dtype, record.channels_last, record.measured, record.compiled, record.graphs
        )
        return cls(
            torch.device(record.device),
            record.num_threads,
            precision,
            record.world_size,
            record.micro_batch,
            record.decisions,
        )

    def with_decision(self, decision: Decision) -> MachinePlan:
        """Return the plan with one more decision."""
        return replace(self, decisions=(*self.decisions, decision))

    def write(self, folder: Path) -> None:
        """Record the plan in the checkpoint directory."""
        write_json(folder / FILE_NAME, self.to_dict(), private=True)


def make_plan(
    folder: Path | None,
    denoiser: Denoiser,
    runtime: RuntimeSettings,
    schedule: ScheduleSettings,
    ranks: Ranks | None = None,
    *,
    averages: int = 1,
    private: bool = False,
) -> MachinePlan:
    """Return the recorded plan of this run, or choose a plan and record it before the first step.

    Process 0 chooses for all processes.

    Args:
        folder: checkpoint directory; None on every process except the first.
        denoiser: denoiser to train.
        runtime: settings of the machine.
        schedule: number of steps and batch size.
        ranks: processes of the job.
        averages: averages of the weights that are tracked, which take memory.
        private: whether gradients of single scans are computed, which needs fp32.

    Raises:
        DataError: the record is unreadable, or was made on a kind of device that this machine does not have.
        TrainingError: not even one scan at a time fits into memory.
        UsageError: the processes have different kinds of devices.
    """
    ranks = ranks or Ranks()
    body = None
    if folder is not None:
        recorded = (folder / FILE_NAME).is_file()
        plan = (
            _recorded(folder / FILE_NAME)
            if recorded
            else _chosen(denoiser, runtime, schedule, ranks, averages=averages, private=private)
        )
        now = _for_these_processes(plan, runtime, ranks)
        if now != plan or not recorded:
            now.write(folder)
        body = now.to_dict()
    plan = MachinePlan.from_dict(ranks.broadcast(body))
    if plan.device.type != default_device().type:
        raise UsageError(
            f"process {ranks.rank} has another kind of device than process 0",
            field="device",
            value=default_device().type,
            remedy=f"Start all processes where there is a {plan.device.type} device.",
        )
    return replace(plan, device=default_device())


def shared_cores(plan: MachinePlan, runtime: RuntimeSettings) -> SharedCores:
    """Return the adaptation of a training's threads to the free cores; a fixed number does not change."""
    fixed = runtime.num_threads is not None or plan.device.type != "cpu"
    return SharedCores(1 if fixed else plan.num_threads)


def _chosen(
    denoiser: Denoiser,
    runtime: RuntimeSettings,
    schedule: ScheduleSettings,
    ranks: Ranks,
    *,
    averages: int,
    private: bool,
) -> MachinePlan:
    device = default_device()
    own = choices(device)
    num_threads = _threads_here(runtime, ranks)
    share = ranks.share(schedule.batch_size)
    count = share.stop - share.start
    at_once = min(count, runtime.micro_batch or schedule.batch_size)
    micro_batch = runtime.micro_batch
    with threads(num_threads):
        trial = denoiser.to(device)
        if private:
            precision = Precision("fp32", channels_last=False)
        elif runtime.precision == "auto":
            precision = probe_precision(trial, batch_size=min(at_once, own.probe_batch or at_once))
            logger.info("precision: %s, measured img/s: %s", precision.name, precision.measured)
        else:
            # The preferred layout of the device, without a measurement, so that two runs never differ in it.
            precision = Precision(runtime.precision, channels_last=own.arithmetic[0][1])
        if micro_batch is None and not private:
            computing = apply_precision(copy.deepcopy(trial), precision)
            micro_batch = scans_that_fit(
                computing,
                precision,
                device,
                each=step_bytes(computing, recompute=runtime.checkpoint_activations),
                count=count,
                averages=averages,
                recompute=runtime.checkpoint_activations,
                processes=ranks.place.local_size if device.type == "cpu" else 1,
            )
            at_once = min(at_once, micro_batch or at_once)
        tried = runtime.compile == "on" or (runtime.compile == "auto" and own.compiles)
        if tried and not runtime.checkpoint_activations and not private:
            precision = probe_compiled(
                trial,
                precision,
                batch_size=at_once,
                images_left=schedule.num_steps * schedule.batch_size // ranks.size,
                seconds_left=60.0 * schedule.max_minutes if schedule.max_minutes else None,
                must=runtime.compile == "on",
            )
    return MachinePlan(device, num_threads, precision, ranks.size, micro_batch)


def _for_these_processes(plan: MachinePlan, runtime: RuntimeSettings, ranks: Ranks) -> MachinePlan:
    """Return the plan for the current number of processes, with the same precision and decisions."""
    if plan.world_size != ranks.size:
        num_threads = _threads_here(runtime, ranks)
        logger.info(
            "this training ran as %d processes of %d threads and goes on as %d of %d: equal up to rounding",
            plan.world_size,
            plan.num_threads,
            ranks.size,
            num_threads,
        )
        plan = replace(plan, world_size=ranks.size, num_threads=num_threads)
    if runtime.micro_batch is not None and plan.micro_batch != runtime.micro_batch:
        logger.info(
            "train.micro_batch was %s and is now %s: equal up to rounding",
            plan.micro_batch,
            runtime.micro_batch,
        )
        plan = replace(plan, micro_batch=runtime.micro_batch)
    return plan


def _threads_here(runtime: RuntimeSettings, ranks: Ranks) -> int:
    return threads_here(ranks.place) if runtime.num_threads is None else runtime.num_threads


def _recorded(path: Path) -> MachinePlan:
    try:
        plan = MachinePlan.from_dict(read_json(path, role="checkpoint"))
    except (ValidationError, ValueError) as error:
        raise DataError(
            f"{FILE_NAME} is not readable", field="checkpoint", remedy="Train again with --force."
        ) from error
    if plan.device.type != default_device().type:
        raise DataError(
            "this training was begun on another kind of device",
            field="checkpoint",
            value=plan.device.type,
            remedy="Go on with it on such a machine, or train again with --force.",
        )
    return plan
