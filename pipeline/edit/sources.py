"""Sources of the edits: scans of a cohort, or synthetic candidates of the same checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from pipeline.arrays import Bools, Ints
from pipeline.artifacts.candidates import EDITED_FROM, FROM_CANDIDATE, FROM_SCAN, Candidates
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.pixels import StoredPixels
from pipeline.edit.settings import EditSettings
from pipeline.errors import DataError, UsageError
from pipeline.records import CandidatesRef, CohortRef
from pipeline.stage import REFERENCE_NAME, verify_reference
from pipeline.storage import read_json

if TYPE_CHECKING:
    from pipeline.artifacts.checkpoint import CheckpointInfo

_ORDER_STREAM = 0x65646974
"""Random stream of the order of a cohort's scans, separate from all other uses of the run seed."""


@dataclass(frozen=True)
class Sources:
    """Chosen sources, in the order in which they are edited.

    Attributes:
        kind: `cohort` or `candidates`.
        digest: content digest of the cohort or candidates.
        ids: `sample_id` of each source (private for scans).
        classes: class name of each source.
        edited_from: `FROM_SCAN` or `FROM_CANDIDATE` for each source.
        rows: rows of the sources in the set.
        take: rows of the set -> stored pixels (n, 1, H, W).
    """

    kind: str
    digest: str
    ids: list[str]
    classes: list[str]
    edited_from: list[str]
    rows: Ints
    take: Callable[[Ints], StoredPixels]

    def __len__(self) -> int:
        return len(self.rows)

    def pixels(self, first: int, end: int) -> StoredPixels:
        """Return stored pixels of the sources `first` to `end`, (n, 1, H, W)."""
        return self.take(self.rows[first:end])


def open_sources(
    folder: Path, info: CheckpointInfo, checkpoint_digest: str, settings: EditSettings, *, seed: int
) -> Sources:
    """Open and verify a cohort or candidates, and choose the sources.

    From a cohort, scans of a split are taken in an order drawn from the seed; from candidates, the lowest
    rows. Requesting more edits does not change the earlier ones.

    Raises:
        UsageError: the class is unknown, or nothing is chosen.
        DataError: not a cohort or candidates, changed since it was made, of another image size or bit depth
            than the checkpoint, or candidates of another checkpoint.
    """
    body = read_json(folder / REFERENCE_NAME, role="--from")
    stage = body.get("stage") if isinstance(body, dict) else None
    if stage == CohortRef.stage:
        return _of_cohort(folder, info, settings, seed)
    if stage == CandidatesRef.stage:
        return _of_candidates(folder, info, checkpoint_digest, settings)
    raise DataError(
        "neither a cohort nor candidates",
        field="--from",
        value=str(folder),
        remedy="Pass a finished output directory of `phosphor ingest` or `phosphor sample`.",
    )


def _of_cohort(folder: Path, info: CheckpointInfo, settings: EditSettings, seed: int) -> Sources:
    verify_reference(CohortRef, folder)
    cohort = Cohort(folder)
    _require_fit(cohort.info.image_size, cohort.info.bit_depth, info)
    names = np.array(cohort.info.classes)
    rows = cohort.rows(settings.split)
    classes = names[np.asarray(cohort.labels)[rows]]
    chosen = _chosen(classes, cohort.info.classes, settings, place=f"the {settings.split} split")
    order = np.random.default_rng([seed, _ORDER_STREAM]).permutation(len(rows))
    order = order[chosen[order]]
    order = order[: settings.num_sources(len(order))]
    ids = cohort.records()["sample_id"].to_numpy()[rows[order]]
    return Sources(
        "cohort",
        cohort.digest,
        [str(name) for name in ids],
        [str(name) for name in classes[order]],
        [FROM_SCAN] * len(order),
        rows[order],
        cohort.take,
    )


def _of_candidates(
    folder: Path, info: CheckpointInfo, checkpoint_digest: str, settings: EditSettings
) -> Sources:
    verify_reference(CandidatesRef, folder)
    candidates = Candidates(folder)
    table = candidates.table
    # Candidates of another checkpoint may copy scans of another cohort, with which the audit does not
    # compare.
    if set(table["checkpoint_digest"]) != {checkpoint_digest}:
        raise DataError(
            "the candidates were made by another checkpoint",
            field="--from",
            value=str(folder),
            remedy="Pass the checkpoint that made them, or sample candidates with this one.",
        )
    _require_fit(candidates.shards.image_shape[1:], candidates.shards.dtype.itemsize * 8, info)
    classes = table["class"].to_numpy().astype(str)
    present = tuple(dict.fromkeys([*info.classes, *classes.tolist()]))
    rows = np.flatnonzero(_chosen(classes, present, settings, place="the candidates"))
    rows = rows[: settings.num_sources(len(rows))].astype(np.int64)
    # An edit of an edit of a scan is an edit of a scan: only known synthetic sources count as synthetic.
    known = EDITED_FROM in table.columns
    origin = table[EDITED_FROM].to_numpy()[rows] if known else [FROM_CANDIDATE] * len(rows)
    return Sources(
        "candidates",
        candidates.digest,
        [str(name) for name in table["sample_id"].to_numpy()[rows]],
        classes[rows].tolist(),
        [FROM_CANDIDATE if name == FROM_CANDIDATE else FROM_SCAN for name in origin],
        rows,
        candidates.take,
    )


def _chosen(
    classes: npt.NDArray[np.str_], known: tuple[str, ...], settings: EditSettings, *, place: str
) -> Bools:
    """Return which of the sources are of the class that is edited."""
    wanted = settings.from_class
    if wanted is not None and wanted not in known:
        raise UsageError(
            "the sources have no such class",
            field="--class",
            value=wanted,
            remedy=f"Choose from {list(known)}.",
        )
    chosen: Bools = classes != settings.to_class if wanted is None else classes == wanted
    if not chosen.any():
        what = f"class {wanted!r}" if wanted is not None else f"another class than {settings.to_class!r}"
        raise UsageError(
            f"{place} holds no image of {what}, so nothing would be edited",
            field="--from",
            remedy="Choose another --class or --split.",
        )
    return chosen


def _require_fit(image_size: tuple[int, ...], bit_depth: int, info: CheckpointInfo) -> None:
    found = (*image_size, bit_depth)
    if found != (*info.image_size, info.bit_depth):
        height, width = info.image_size
        raise DataError(
            f"the sources are not of the checkpoint's {height} x {width} pixels of {info.bit_depth} bits",
            field="--from",
            value="{} x {} of {} bits".format(*found),
            remedy="Pass the cohort of this checkpoint, or candidates sampled from it.",
        )
