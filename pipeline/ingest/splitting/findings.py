"""The findings of each scan, where a manifest gives a scan several labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Ints
from pipeline.sources.base import ScanTask

ABSENT, PRESENT, UNCERTAIN = range(3)


@dataclass(frozen=True)
class Findings:
    """Which findings each scan has.

    Attributes:
        names: names of the findings, empty for a manifest with one label a scan.
        states: (N, K) uint8: absent, present or uncertain.
    """

    names: tuple[str, ...]
    states: npt.NDArray[np.uint8]

    def told(self, row: int) -> str:
        """Return a scan's findings as text: those present, and those uncertain with a question mark."""
        states = self.states[row]
        shown = [name for name, state in zip(self.names, states, strict=True) if state == PRESENT]
        shown += [name + "?" for name, state in zip(self.names, states, strict=True) if state == UNCERTAIN]
        return ",".join(shown)


def findings_of(names: tuple[str, ...], tasks: list[ScanTask], task_of_row: Ints) -> Findings:
    """Return the findings by row.

    Args:
        names: names of the findings.
        tasks: every scan's file, with its findings.
        task_of_row: (N,) number of the task that each row came from.
    """
    width = len(names)
    blank = bytes(width)
    table = np.frombuffer(b"".join(task.findings or blank for task in tasks), dtype=np.uint8)
    return Findings(names, table.reshape(len(tasks), width)[task_of_row])
