"""What a machine chooses for a training, recorded once and kept to on every resume."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.devices import choices, default_device
from models.diffusion.denoiser import Denoiser
from models.optim.precision import Precision, probe_compiled, probe_precision
from pipeline.cost.time_budget import Decision
from pipeline.distributed.cpu_threads import SharedCores, threads, threads_here
from pipeline.distributed.process_group import Ranks
from pipeline.errors import DataError, UsageError
from pipeline.storage import read_json, write_json
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
    """How a training runs here.

    Attributes:
        device: where; num_threads: CPU threads of each process; precision: the arithmetic.
        world_size: processes; micro_batch: scans in memory at a time on each, None for its whole share.
        decisions: how many steps fit into the time budget, as decided so far.
    """

    device: torch.device
    num_threads: int
    precision: Precision
    world_size: int = 1
    micro_batch: int | None = None
    decisions: tuple[Decision, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values, as in `machine.json`."""
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
        """Rebuild a plan from `to_dict`'s values.

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
    private: bool = False,
) -> MachinePlan:
    """Return the recorded plan of this run, or choose one and record it before the first step.

    Process 0 chooses for all.

    Args:
        folder: the checkpoint directory; None on every process but the first.
        denoiser: the denoiser to be trained.
        runtime: what is asked of the machine.
        schedule: how much there is to compute.
        ranks: the processes of the job.
        private: whether gradients of single scans are taken, which only fp32 does.

    Raises:
        DataError: the record is unreadable, or was made on a kind of device that this machine has not.
        UsageError: the processes have different kinds of devices.
    """
    ranks = ranks or Ranks()
    body = None
    if folder is not None:
        recorded = (folder / FILE_NAME).is_file()
        plan = (
            _recorded(folder / FILE_NAME)
            if recorded
            else _chosen(denoiser, runtime, schedule, ranks, private=private)
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
    """Return what fits a training's threads to the cores that other programs leave; a fixed number stays."""
    fixed = runtime.num_threads is not None or plan.device.type != "cpu"
    return SharedCores(1 if fixed else plan.num_threads)


def _chosen(
    denoiser: Denoiser, runtime: RuntimeSettings, schedule: ScheduleSettings, ranks: Ranks, *, private: bool
) -> MachinePlan:
    device = default_device()
    own = choices(device)
    num_threads = _threads_here(runtime, ranks)
    share = ranks.share(schedule.batch_size)
    at_once = min(share.stop - share.start, runtime.micro_batch or schedule.batch_size)
    with threads(num_threads):
        trial = denoiser.to(device)
        if private:
            precision = Precision("fp32", channels_last=False)
        elif runtime.precision == "auto":
            precision = probe_precision(trial, batch_size=min(at_once, own.probe_batch or at_once))
            logger.info("precision: %s, measured img/s: %s", precision.name, precision.measured)
        else:
            # Not measured, so that two runs never differ by it: the layout is what the device prefers.
            precision = Precision(runtime.precision, channels_last=own.arithmetic[0][1])
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
    return MachinePlan(device, num_threads, precision, ranks.size, runtime.micro_batch)


def _for_these_processes(plan: MachinePlan, runtime: RuntimeSettings, ranks: Ranks) -> MachinePlan:
    """Return the plan for as many processes as there are now; the arithmetic and the decisions stay."""
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
    if plan.micro_batch != runtime.micro_batch:
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
