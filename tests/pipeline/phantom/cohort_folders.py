"""Reading the folder of a phantom cohort, and writing one that is cut off."""

from __future__ import annotations

import csv
from pathlib import Path

from pipeline.phantom import PhantomIndex


def rows_of(index: PhantomIndex) -> list[dict[str, str]]:
    """Return the rows of a cohort's table."""
    with index.labels_csv.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def tree(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, by its relative path."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


class Stop:
    """Progress that ends the run after some images, as a kill would."""

    def __init__(self, after: int) -> None:
        self.left = after

    def set_total(self, total: int) -> None:
        """Take the number of images, which does not matter."""

    def update(self, advance: int = 1, **facts: float | str) -> None:
        """Count an image, and raise KeyboardInterrupt at the last one."""
        self.left -= advance
        if self.left <= 0:
            raise KeyboardInterrupt
