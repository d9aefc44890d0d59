"""`progress.csv`: how training went, one row every few steps, no row twice after a resume."""

from __future__ import annotations

import csv
import io
import time
from pathlib import Path

from pipeline.storage import storage_errors, write_text

FILE_NAME = "progress.csv"
COLUMNS = ("step", "images", "seconds", "loss", "images_per_second", "learning_rate")
MAX_CHARACTERS = 256 * 2**20


class History:
    """Appends rows to `progress.csv`; rows past the resumed step are dropped first.

    Args:
        folder: the checkpoint directory.
        step: the step training starts from (0 for a new run).
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
        """Append a row and return the images a second since the row before."""
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
        """Leave out the time since the last row: loading, compiling, or a resume from `images`."""
        self._marked, self._images = time.monotonic(), images


def _rows_until(path: Path, step: int) -> list[list[str]]:
    """Return the well-formed rows with a step of at most `step`; a row torn by a kill is left out."""
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
