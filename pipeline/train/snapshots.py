"""Snapshots of the averages of the weights during training, and the average that becomes the model."""

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
    """Snapshots of a run: `snapshots/step-*.safetensors` of its checkpoint directory.

    A snapshot is a pure function of the averages. So a resumed run that writes a snapshot again writes the
    same bytes.

    Args:
        folder: checkpoint directory; None on a process that writes nothing.
        settings: lengths of the averages, and number of snapshots.
    """

    def __init__(self, folder: Path | None, settings: AverageSettings) -> None:
        self._folder, self._settings = folder, settings
        self.steps: tuple[int, ...] = ()

    def resume(self, step: int) -> None:
        """Keep the snapshots up to `step`, from which training resumes, and delete later ones."""
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
        """Return whether to take a snapshot after `step` of `num_steps` steps."""
        count = self._settings.ema_snapshots
        return count > 0 and step in snapshot_steps(num_steps, count)

    def take(self, step: int, averages: PowerFunctionAverages[Denoiser]) -> None:
        """Write the snapshot after `step` steps. Call it before the state of that step is saved.

        A run that resumes from that state then has all snapshots up to it.
        """
        assert self._folder is not None
        with storage_errors(self._folder / snapshot_name(step)):
            write_snapshot(self._folder, step, averages)
        self.steps = (*self.steps, step)

    def until(self, step: int) -> tuple[int, ...]:
        """Return the steps of the snapshots up to `step`."""
        return tuple(own for own in self.steps if own <= step)

    def read(self, length: float, step: int, like: Denoiser) -> dict[str, Tensor]:
        """Return the average of a length at the step of a snapshot, by name, in fp32.

        Raises:
            DataError: the average cannot be computed from the snapshots.
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
            averages: averages after the last step.
            step: step of the average.
            newest: whether that is the last step.
        """
        length = self._settings.ema_length
        if newest and length in averages.models:
            return averages.models[length].state_dict()
        return self.read(length, step, averages.nearest(length))
