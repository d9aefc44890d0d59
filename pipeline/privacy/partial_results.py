"""Partial results of an audit, saved in pieces so that it can resume and so that processes can share them."""

from __future__ import annotations

import logging
import shutil
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from pipeline.arrays import Floats, Ints
from pipeline.distributed.process_group import Ranks
from pipeline.privacy.search.neighbours import Neighbours
from pipeline.privacy.search.views import Found, Views, join_found
from pipeline.storage import atomic_path, make_private_directory

logger = logging.getLogger(__name__)

FOLDER_NAME = "halfway"
QUERIES_A_PIECE = 512
"""Images searched between two saves. Pieces are the same in every run of an audit, because a matrix product
may round differently in another batch."""

Arrays = Mapping[str, npt.NDArray[np.generic]]


class Halfway:
    """Saves partial results by name and shares them among the processes of a job.

    The directory of an unfinished audit belongs to one set of inputs and settings, so a name identifies a
    result.

    Args:
        folder: the audit directory, accessible to all processes; None saves nothing.
        ranks: the processes; each measures its part of the pieces and reads the others' pieces.

    Raises:
        ValueError: several processes without a directory.
    """

    def __init__(self, folder: Path | None = None, ranks: Ranks | None = None) -> None:
        self._ranks = ranks or Ranks()
        if folder is None and self._ranks.size > 1:
            raise ValueError("several processes need a folder to share what they measure")
        self._folder = None if folder is None else make_private_directory(folder / FOLDER_NAME)

    @property
    def num_processes(self) -> int:
        """Number of processes that share the work."""
        return self._ranks.size

    def search(self, name: str, views: Views, images: torch.Tensor, own_patient: Ints | None = None) -> Found:
        """Return the result of `views.search` for (n, 1, h, w) images, computed in pieces."""

        def found(first: int, last: int) -> Arrays:
            own = None if own_patient is None else own_patient[first:last]
            return _arrays(views.search(images[first:last], own))

        return join_found(
            [_found(piece) for piece in self._pieces(name, len(images), QUERIES_A_PIECE, found)]
        )

    def values(self, name: str, count: int, size: int, make: Callable[[int, int], Floats]) -> Floats:
        """Return the concatenated results of `make(first, last)` for `count` items, `size` at a time."""
        pieces = self._pieces(name, count, size, lambda first, last: {"values": make(first, last)})
        values: Floats = np.concatenate([piece["values"] for piece in pieces])
        return values

    def number(self, name: str, decide: Callable[[], int]) -> int:
        """Return a number that process 0 decides once, even if the audit is interrupted and resumed."""
        decided = 0
        if self._ranks.is_main:
            decided = int(self._kept(name, lambda: {"value": np.array(decide())})["value"])
        return int(self._ranks.broadcast(decided))

    def clear(self) -> None:
        """Remove all partial results: they hold distances of images to patients, which are kept no longer."""
        if self._folder is not None:
            shutil.rmtree(self._folder)

    def _pieces(self, name: str, count: int, size: int, make: Callable[[int, int], Arrays]) -> list[Arrays]:
        """Compute the missing pieces of this process, wait for the other processes, and return all pieces."""
        firsts = range(0, max(count, 1), size)

        def piece(first: int) -> Arrays:
            return self._kept(f"{name}-{first:09d}", lambda: make(first, min(first + size, count)))

        if self._ranks.size > 1:
            for first in firsts[self._ranks.share(len(firsts))]:
                piece(first)
            self._ranks.wait_for_all()
        return [piece(first) for first in firsts]

    def _kept(self, name: str, make: Callable[[], Arrays]) -> Arrays:
        if self._folder is None:
            return make()
        path = self._folder / f"{name}.npz"
        if path.is_file():
            try:
                with np.load(path, allow_pickle=False) as stored:
                    return {key: stored[key] for key in stored.files}
            except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile):
                logger.warning("the saved results of %s are damaged: measuring them again", name)
        arrays = make()
        with atomic_path(path, private=True) as temporary, temporary.open("wb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
        return arrays


def _arrays(found: Found) -> Arrays:
    arrays: dict[str, npt.NDArray[np.generic]] = {"blend": found.blend, "redrawn": found.redrawn}
    for view, own in found.views.items():
        arrays |= {f"{view}.{field}": getattr(own, field) for field in Neighbours.__dataclass_fields__}
    return arrays


def _found(arrays: Arrays) -> Found:
    views: dict[str, dict[str, npt.NDArray[np.generic]]] = {}
    for name, values in arrays.items():
        view, _, field = name.partition(".")
        if field:
            views.setdefault(view, {})[field] = values
    blend, redrawn = arrays["blend"].astype(np.float64), arrays["redrawn"].astype(np.float64)
    return Found({view: Neighbours(**own) for view, own in views.items()}, blend, redrawn)  # type: ignore[arg-type]
