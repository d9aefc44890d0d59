"""Saved states, from which training resumes bit for bit; written atomically, the newest two are kept."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch
from torch import Tensor, nn

from models.checkpoint import load_into, read_tensors, write_tensors
from models.optim.ema import PowerFunctionAverages
from models.optim.optimiser import Optimiser
from pipeline.distributed.process_group import Ranks
from pipeline.storage import make_private_directory, storage_errors, sync_directory

logger = logging.getLogger(__name__)

FOLDER_NAME = "state"
KEPT_GENERATIONS = 2
_NAME = re.compile(r"^step-(\d{9})\.safetensors$")


class TrainingState:
    """Weights, averages and optimiser of a run, and the folder in which they are saved.

    Random numbers are not saved, because every step draws from streams derived from seed and step.

    Args:
        folder: checkpoint directory; None on a process that writes nothing and receives all from another.
        model: denoiser being trained.
        ema: averages of the denoiser.
        optimizer: optimiser of the denoiser.
        inputs_digest: digest of the inputs of the run; a state of another run is never loaded.
        aside: write files in a separate thread during training, from a copy in host memory. A state has 16
            bytes per weight and takes seconds to write, during which a GPU would be idle. A CPU needs the
            time and the memory itself.
    """

    def __init__(
        self,
        folder: Path | None,
        *,
        model: nn.Module,
        ema: PowerFunctionAverages,
        optimizer: Optimiser,
        inputs_digest: str,
        aside: bool = False,
    ) -> None:
        self._folder = make_private_directory(folder / FOLDER_NAME) if folder is not None else None
        self._model, self._ema, self._optimizer = model, ema, optimizer
        self._inputs_digest = inputs_digest
        self._saved_step = 0
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="save") if aside else None
        self._writing: tuple[int, Future[None]] | None = None

    @property
    def saved_step(self) -> int:
        """Steps of the newest saved state, after waiting for its file; 0 if there is none.

        Raises:
            StorageError: it could not be written.
        """
        self.finish()
        return self._saved_step

    def save(self, step: int) -> None:
        """Save the state after `step` steps, then delete all states except the newest two.

        Raises:
            StorageError: the disk is full or not writable, now or for the state before.
        """
        self.finish()
        if self._writer is None:
            self._write(step, self._tensors())
            self._saved_step = step
            return
        # Always a copy, because the next step changes the weights.
        copied = {name: tensor.detach().to("cpu", copy=True) for name, tensor in self._tensors().items()}
        self._writing = (step, self._writer.submit(self._write, step, copied))

    def finish(self) -> None:
        """Wait until the state is on the disk.

        Raises:
            StorageError: it could not be written.
        """
        if self._writing is not None:
            (step, written), self._writing = self._writing, None
            written.result()
            self._saved_step = step

    def close(self) -> None:
        """Wait for the writing thread and end it."""
        if self._writer is not None:
            self._writer.shutdown(wait=True)

    def _write(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        assert self._folder is not None
        path = self._folder / f"step-{step:09d}.safetensors"
        with storage_errors(path):
            write_tensors(path, tensors, {"step": step, "inputs_digest": self._inputs_digest})
            sync_directory(self._folder)
            for old in self._saved()[KEPT_GENERATIONS:]:
                old.unlink()
            for torn in self._folder.glob(".*.tmp"):
                torn.unlink(missing_ok=True)

    def load_newest(self) -> int:
        """Load the newest readable state in place and return its step, or 0 if there is none."""
        for path in self._saved():
            try:
                step = self._load(path)
            except (ValueError, OSError) as error:
                logger.warning(
                    "the saved state %s cannot be used (%s); trying the one before", path.name, error
                )
                continue
            return step
        return 0

    def load_shared(self, ranks: Ranks) -> int:
        """Load the newest readable state on process 0, send it to all processes, and return its step."""
        step = self._saved_step = int(ranks.broadcast(self.load_newest()))
        if ranks.size > 1:
            others = self._optimizer.tensors().values() if step else ()
            ranks.broadcast_tensors([*self._model.state_dict().values(), *others])
            self._optimizer.set_step(step)
        return step

    def _load(self, path: Path) -> int:
        found = read_tensors(path, self._tensors())
        if found.metadata.get("inputs_digest") != self._inputs_digest:
            raise ValueError("it belongs to another run")
        step = found.metadata.get("step")
        if not isinstance(step, int) or step < 1:
            raise ValueError("its header holds no step")
        load_into(self._model, _part(found.tensors, "model."))
        self._ema.load(_part(found.tensors, "ema."))
        with torch.no_grad():
            for name, tensor in self._optimizer.tensors().items():
                tensor.copy_(found.tensors[name])
        self._optimizer.set_step(step)
        return step

    def _tensors(self) -> dict[str, Tensor]:
        tensors = {f"model.{name}": tensor for name, tensor in self._model.state_dict().items()}
        tensors |= {f"ema.{name}": tensor for name, tensor in self._ema.tensors().items()}
        return tensors | self._optimizer.tensors()

    def _saved(self) -> list[Path]:
        """Return the saved states, newest first."""
        with contextlib.suppress(FileNotFoundError):
            if self._folder is None:
                return []
            return sorted((path for path in self._folder.iterdir() if _NAME.match(path.name)), reverse=True)
        return []


def kept_words(saved_step: int) -> str:
    """Return the words about the saved state for an error; 0 means that there is none."""
    return f"the state of step {saved_step} is kept" if saved_step else "no state was saved yet"


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
