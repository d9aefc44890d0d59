"""Keeping snapshots of the weight averages along training, and taking from them what becomes the model."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from models.diffusion.denoiser import Denoiser
from models.optim.ema import PowerFunctionAverages
from models.optim.snapshots import (
    FOLDER_NAME,
    read_average,
    snapshot_name,
    snapshot_steps,
    step_of,
    write_snapshot,
)
from pipeline.errors import DataError
from pipeline.storage import make_private_directory, storage_errors
from pipeline.train.parts import AverageSettings


class Snapshots:
    """The snapshots of one run: `snapshots/step-*.safetensors` of its checkpoint directory.

    A snapshot is a pure function of the averages, so that one which a resumed run comes to again is written
    with the same bytes.

    Args:
        folder: the checkpoint directory; None on a process that writes nothing.
        settings: which averages there are, and how many snapshots.
    """

    def __init__(self, folder: Path | None, settings: AverageSettings) -> None:
        self._folder, self._settings = folder, settings
        self.steps: tuple[int, ...] = ()

    def resume(self, step: int) -> None:
        """Keep the snapshots up to `step`, from which training goes on, and drop later ones."""
        if self._folder is None or not self._settings.ema_snapshots:
            return
        kept: list[int] = []
        for path in make_private_directory(self._folder / FOLDER_NAME).iterdir():
            own = step_of(path.name)
            if own is not None and own <= step:
                kept.append(own)
            else:
                path.unlink()
        self.steps = tuple(sorted(kept))

    def due(self, step: int, num_steps: int) -> bool:
        """Return whether a snapshot belongs after `step` of `num_steps` steps."""
        count = self._settings.ema_snapshots
        return count > 0 and step in snapshot_steps(num_steps, count)

    def take(self, step: int, averages: PowerFunctionAverages[Denoiser]) -> None:
        """Write the snapshot after `step` steps; call it before the state of that step is saved.

        A run that goes on from that state then has all snapshots up to it.
        """
        assert self._folder is not None
        with storage_errors(self._folder / snapshot_name(step)):
            write_snapshot(self._folder, step, averages)
        self.steps = (*self.steps, step)

    def until(self, step: int) -> tuple[int, ...]:
        """Return the steps of the snapshots up to `step`."""
        return tuple(own for own in self.steps if own <= step)

    def read(self, length: float, step: int, like: Denoiser) -> dict[str, Tensor]:
        """Return the average of a length at a snapshot's step, by name, in fp32.

        Raises:
            DataError: the snapshots cannot give it.
        """
        assert self._folder is not None
        try:
            wanted = (length, step)
            return read_average(
                self._folder, self.until(step), self._settings.ema_lengths, wanted, like.state_dict()
            )
        except (ValueError, OSError) as error:
            raise DataError(
                str(error) if isinstance(error, ValueError) else "a snapshot cannot be read",
                field="train.ema_length",
                value=length,
                remedy="Choose one of train.ema_lengths or one near them, or train again with --force.",
            ) from error

    def chosen(
        self, averages: PowerFunctionAverages[Denoiser], step: int, *, newest: bool
    ) -> dict[str, Tensor]:
        """Return the tensors of the average that becomes the model.

        Args:
            averages: the averages after the last step.
            step: the step whose average is wanted.
            newest: whether that is the last step.
        """
        length = self._settings.ema_length
        if newest and length in averages.models:
            return averages.models[length].state_dict()
        return self.read(length, step, averages.nearest(length))
