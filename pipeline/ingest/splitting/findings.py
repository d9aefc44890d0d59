"""Findings of each scan, for manifests that give a scan several labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Ints
from pipeline.sources.base import ScanTask

ABSENT, PRESENT, UNCERTAIN = range(3)


@dataclass(frozen=True)
class Findings:
    """Findings of all scans.

    Attributes:
        names: names of the K findings, empty for a manifest with one label per scan.
        states: (N, K) uint8: `ABSENT`, `PRESENT` or `UNCERTAIN`.
    """

    names: tuple[str, ...]
    states: npt.NDArray[np.uint8]

    def text(self, row: int) -> str:
        """Return a scan's findings as text: those present, then those uncertain with a question mark."""
        states = self.states[row]
        shown = [name for name, state in zip(self.names, states, strict=True) if state == PRESENT]
        shown += [name + "?" for name, state in zip(self.names, states, strict=True) if state == UNCERTAIN]
        return ",".join(shown)


def findings_of(names: tuple[str, ...], tasks: list[ScanTask], task_of_row: Ints) -> Findings:
    """Return the findings of all rows.

    Args:
        names: names of the findings.
        tasks: all tasks, with their findings.
        task_of_row: (N,) number of the task of each row.
    """
    blank = bytes(len(names))
    table = np.frombuffer(b"".join(task.findings or blank for task in tasks), dtype=np.uint8)
    return Findings(names, table.reshape(len(tasks), len(names))[task_of_row])
