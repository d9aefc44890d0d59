"""What a machine chooses at the start of training, recorded once and kept to on every resume."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.denoiser import Denoiser
from models.precision import Precision, default_device, probe_precision
from pipeline.errors import DataError
from pipeline.storage import read_json, write_json
from pipeline.train.settings import TrainSettings

logger = logging.getLogger(__name__)

FILE_NAME = "machine.json"
PROBE_BATCH = 32

# What an explicit choice of arithmetic stands for; it is not measured, so two runs never differ by it.
_FIXED = {"fp32": Precision("fp32", channels_last=False), "bf16": Precision("bf16", channels_last=False)}


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    dtype: str
    channels_last: bool
    measured: dict[str, float]
    num_threads: int = Field(ge=1)
    device: str


@dataclass(frozen=True)
class MachinePlan:
    """Device, threads and arithmetic of a run."""

    device: torch.device
    num_threads: int
    precision: Precision


def make_plan(folder: Path, denoiser: Denoiser, settings: TrainSettings) -> MachinePlan:
    """Return the recorded plan of this run, or choose one and record it before the first step.

    Raises:
        DataError: the record is unreadable, or was made on a kind of device that this machine has not.
    """
    path = folder / FILE_NAME
    if path.is_file():
        return _recorded(path)
    device = default_device()
    num_threads = settings.num_threads or torch.get_num_threads()
    if settings.precision == "auto":
        with threads(num_threads):
            trial = denoiser.to(device)
            precision = probe_precision(trial, batch_size=min(settings.batch_size, PROBE_BATCH))
        logger.info("precision: %s, measured img/s: %s", precision.name, precision.measured)
    else:
        precision = _FIXED[settings.precision]
    body = {**precision.to_dict(), "num_threads": num_threads, "device": device.type}
    write_json(path, body, private=True)
    return MachinePlan(device, num_threads, precision)


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Compute with `count` CPU threads inside the block, then as before."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _recorded(path: Path) -> MachinePlan:
    try:
        record = _Record.model_validate(read_json(path, role="checkpoint"))
        precision = Precision(record.dtype, record.channels_last, record.measured)
    except (ValidationError, ValueError) as error:
        raise DataError(
            f"{FILE_NAME} is not readable", field="checkpoint", remedy="Train again with --force."
        ) from error
    if record.device != default_device().type:
        raise DataError(
            "this training was begun on another kind of device",
            field="checkpoint",
            value=record.device,
            remedy="Go on with it on such a machine, or train again with --force.",
        )
    return MachinePlan(torch.device(record.device), record.num_threads, precision)
