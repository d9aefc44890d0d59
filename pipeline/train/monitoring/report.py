"""Reports of a training by process 0: live progress, `progress.csv` and sample grids."""

from __future__ import annotations

import contextlib
import copy
import csv
import io
import time
from collections.abc import Iterator
from pathlib import Path

from torch import Tensor

from models.diffusion.denoiser import Denoiser
from models.latent.autoencoder import Autoencoder
from models.optim.precision import Precision, apply_precision
from pipeline.progress import Progress, track
from pipeline.storage import storage_errors, write_text
from pipeline.train.monitoring.grid import write_grid

FILE_NAME = "progress.csv"
COLUMNS = ("step", "images", "seconds", "loss", "images_per_second", "learning_rate")
MAX_CHARACTERS = 256 * 2**20


class History:
    """Appends rows to `progress.csv`; rows after the resumed step are removed first.

    Args:
        folder: checkpoint directory.
        step: step from which training starts (0 for a new run).
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._path = folder / FILE_NAME
        kept = _rows_until(self._path, step)
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(kept)
        write_text(self._path, stream.getvalue(), private=True)
        self._seconds = float(kept[-1][2]) if kept else 0.0
        self._marked = time.monotonic()
        self._images = int(kept[-1][1]) if kept else 0

    def add(self, *, step: int, images: int, loss: float, learning_rate: float) -> float:
        """Append a row and return the images per second since the row before."""
        now = time.monotonic()
        elapsed, self._marked = now - self._marked, now
        self._seconds += elapsed
        rate = (images - self._images) / max(elapsed, 1e-9)
        self._images = images
        row = (step, images, f"{self._seconds:.3f}", f"{loss:.6f}", f"{rate:.2f}", f"{learning_rate:.3e}")
        with storage_errors(self._path), self._path.open("a", encoding="utf-8", newline="") as stream:
            csv.writer(stream, lineterminator="\n").writerow(row)
        return rate

    @property
    def seconds(self) -> float:
        """Training time until now, over all resumes."""
        return self._seconds + time.monotonic() - self._marked

    def restart_clock(self, images: int) -> None:
        """Exclude the time since the last row: loading, compiling, or a resume from `images`."""
        self._marked, self._images = time.monotonic(), images


class Report:
    """Sums the losses between two reports.

    Args:
        history: `progress.csv`; None on a process that writes nothing.
        progress: the live display.
    """

    def __init__(self, history: History | None, progress: Progress | None) -> None:
        self._history, self._progress = history, progress
        self._loss_sum: Tensor | None = None
        self._num_losses = 0

    def count(self, loss: Tensor) -> None:
        """Add the loss of a step, without copying it from the device."""
        self._loss_sum = loss if self._loss_sum is None else self._loss_sum + loss
        self._num_losses += 1

    @property
    def loss_sum(self) -> float:
        """Sum of the losses since the last report; waits for the device."""
        return 0.0 if self._loss_sum is None else float(self._loss_sum)

    @property
    def seconds(self) -> float:
        """Training time so far, over all resumes; 0 on a process that writes nothing."""
        return 0.0 if self._history is None else self._history.seconds

    def write(self, *, step: int, images: int, learning_rate: float) -> None:
        """Add a row to `progress.csv` and update the display."""
        loss, count = self.loss_sum / max(self._num_losses, 1), self._num_losses
        self._loss_sum, self._num_losses = None, 0
        if self._history is not None and self._progress is not None:
            rate = self._history.add(step=step, images=images, loss=loss, learning_rate=learning_rate)
            self._progress.update(count, loss=loss, images_per_second=rate)

    def set_total(self, num_steps: int) -> None:
        """Change the total number of steps of the display."""
        if self._progress is not None:
            self._progress.set_total(num_steps)


@contextlib.contextmanager
def open_report(
    folder: Path | None, *, step: int, num_steps: int, images: int, description: str = "train"
) -> Iterator[Report]:
    """Open the report of a training that starts from `step` and `images`; silent without a folder."""
    if folder is None:
        yield Report(None, None)
        return
    history = History(folder, step)
    with track(description, num_steps, done=step, unit="steps") as progress:
        history.restart_clock(images)
        yield Report(history, progress)


def draw_grid(
    folder: Path,
    averaged: Denoiser,
    precision: Precision,
    *,
    step: int,
    seed: int,
    autoencoder: Autoencoder | None,
) -> None:
    """Draw a grid of samples with a copy of the averaged denoiser, in the precision of the training."""
    denoiser = apply_precision(copy.deepcopy(averaged), precision)
    write_grid(folder, denoiser, step=step, seed=seed, autoencoder=autoencoder)


def _rows_until(path: Path, step: int) -> list[list[str]]:
    """Return the well-formed rows with a step of at most `step`, without a row truncated by a kill."""
    if not path.is_file() or path.stat().st_size > MAX_CHARACTERS:
        return []
    kept: list[list[str]] = []
    for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8", errors="replace"))):
        try:
            number, _, _ = int(row[0]), int(row[1]), [float(value) for value in row[2:]]
        except (ValueError, IndexError):
            continue
        if len(row) == len(COLUMNS) and number <= step and (not kept or number > int(kept[-1][0])):
            kept.append(row)
    return kept
