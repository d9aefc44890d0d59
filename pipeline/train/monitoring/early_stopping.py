"""Early stopping at memorisation, by the gap between train and val loss."""

from __future__ import annotations

import copy
import csv
import io
import logging
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path

from models.checkpoint import load_into
from models.diffusion.denoiser import Denoiser
from models.optim.precision import Precision, apply_precision
from pipeline.storage import write_text
from pipeline.train.monitoring.memorisation_gap import MIN_PAIRS, Gap, PairedScans
from pipeline.train.parts import AverageSettings
from pipeline.train.snapshots import Snapshots

logger = logging.getLogger(__name__)

FILE_NAME = "memorisation.csv"
COLUMNS = ("step", "train_loss", "val_loss", "gap", "gap_error")
MAX_CHARACTERS = 2**20

NUM_ERRORS = 3.0
"""Standard errors above zero from which a gap is significant."""
MIN_SHARE = 0.05
"""Smallest gap that matters, as a share of the val loss; a smaller gap is normal for unseen scans."""

Row = tuple[int, Gap]


def is_open(gap: Gap) -> bool:
    """Return whether a gap is significant (`NUM_ERRORS`) and large enough to matter (`MIN_SHARE`)."""
    return gap.mean > NUM_ERRORS * gap.error and gap.mean > MIN_SHARE * gap.val


def step_before_gap(rows: Sequence[Row]) -> int | None:
    """Return the step to go back to if training must stop after these measurements, else None.

    Training stops when the gap is open (`is_open`) at the last two measurements and wider at the second. It
    goes back to the last measurement before this unbroken series of open gaps, or to the first measurement.
    """
    if len(rows) < 2 or not (is_open(rows[-1][1]) and is_open(rows[-2][1])):
        return None
    if not rows[-1][1].mean > rows[-2][1].mean:
        return None
    first = len(rows) - 1
    while first > 0 and is_open(rows[first - 1][1]):
        first -= 1
    return rows[max(first - 1, 0)][0]


class MemorisationWatch:
    """Measures the gap at every snapshot, records it in `memorisation.csv`, and decides when to stop.

    A measurement is a pure function of its snapshot, so a resumed run has the same curve.

    Args:
        scans: scans to measure on.
        folder: checkpoint directory.
        settings: lengths of the averages, and whether to stop.
        snapshots: snapshots of the run.
    """

    def __init__(
        self, scans: PairedScans, folder: Path, settings: AverageSettings, snapshots: Snapshots
    ) -> None:
        self._path = folder / FILE_NAME
        self._snapshots = snapshots
        self._scans = scans
        # The average that becomes the model, or the nearest one in every snapshot.
        self._length = min(settings.ema_lengths, key=lambda length: abs(length - settings.ema_length))
        self._rows: list[Row] = []
        self.active = settings.stop_when_memorising and len(self._scans) >= MIN_PAIRS
        if settings.stop_when_memorising and not self.active:
            logger.warning(
                "train.stop_when_memorising has no effect: it needs %d pairs of train and val scans, "
                "and the val split gives %d",
                MIN_PAIRS,
                len(self._scans),
            )

    @property
    def kept_step(self) -> int | None:
        """Step to go back to if training stops now, else None."""
        return step_before_gap(self._rows)

    def resume(self, step: int, like: Denoiser, precision: Precision) -> None:
        """Restore the curve for a run that resumes from `step`."""
        if not self.active:
            return
        known = dict(_read_rows(self._path))
        steps = self._snapshots.until(step)
        self._rows = [(own, known.get(own) or self._measure(own, like, precision)) for own in steps]
        self._write()

    def look(self, step: int, like: Denoiser, precision: Precision) -> bool:
        """Measure the snapshot of `step` and return whether training must stop. Call it before saving.

        Args:
            step: step whose snapshot was just taken.
            like: denoiser of the run, on the device to measure on; it is not changed.
            precision: precision of the run.
        """
        if not self.active:
            return False
        self._rows.append((step, self._measure(step, like, precision)))
        self._write()
        kept = self.kept_step
        if kept is not None:
            gap = self._rows[-1][1]
            logger.warning(
                "training stops at step %d: its loss on val scans is %.4f above the loss on train scans "
                "(standard error %.4f); the weights of step %d are kept",
                step,
                gap.mean,
                gap.error,
                kept,
            )
        return kept is not None

    def _measure(self, step: int, like: Denoiser, precision: Precision) -> Gap:
        denoiser = copy.deepcopy(like).eval()
        load_into(denoiser, self._snapshots.read(self._length, step, like))
        return self._scans.measure(apply_precision(denoiser, precision))

    def _write(self) -> None:
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows((step, *(repr(value) for value in astuple(gap))) for step, gap in self._rows)
        write_text(self._path, stream.getvalue(), private=True)


def _read_rows(path: Path) -> list[Row]:
    """Return the well-formed rows of an earlier curve; missing rows are measured again."""
    if not path.is_file() or path.stat().st_size > MAX_CHARACTERS:
        return []
    rows: list[Row] = []
    for row in csv.reader(io.StringIO(path.read_text(encoding="utf-8", errors="replace"))):
        try:
            train, val, mean, error = (float(value) for value in row[1:])
            rows.append((int(row[0]), Gap(train, val, mean, error)))
        except (ValueError, IndexError):
            continue
    return rows
