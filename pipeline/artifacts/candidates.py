"""Candidates on disk: generated images and their provenance, before any privacy decision."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.conditions import FINDINGS
from pipeline.artifacts.pixels import PixelShards, StoredPixels, to_model_range
from pipeline.errors import DataError
from pipeline.records import CandidatesRef
from pipeline.stage import load_reference
from pipeline.storage import write_parquet

if TYPE_CHECKING:
    import pandas as pd

TABLE_NAME = "candidates.parquet"
CANDIDATE_COLUMNS = (
    "sample_id",
    "class",
    "label",
    "index",
    "seed",
    "sampler",
    "num_steps",
    "guidance_scale",
    "checkpoint_digest",
)
"""Columns of `candidates.parquet`, one row per candidate in pixel order.

`sample_id` is `<class>-<index>` (unique), `class` the name, `label` its position in the cohort's classes,
`index` counts from 0 within the class, `seed` is nullable Int64 (null for a foreign generator)."""

CONDITION_COLUMN = "condition"
"""Column with the requested conditions of a candidate besides its class, as JSON text; empty without any.

The JSON object has attributes (`SCAN_ATTRIBUTES`: text, or null if not given) and `findings` (name -> 1
present, 0 absent, null not given), with the same names in every row. The file has this column only if a
candidate has conditions, so the bytes of other candidate sets do not change. `Candidates` always has it."""

EDITED_FROM = "edited_from"
"""Additional column of edited candidates: the kind of image that each was edited from, one of:"""

FROM_SCAN = "scan"
"""a real scan, or an edit of one: it may hold real pixels and is never released;"""

FROM_CANDIDATE = "candidate"
"""a synthetic image."""


def count_from_scans(table: pd.DataFrame) -> int:
    """Return the number of candidates edited from real scans; an unknown source counts as a real scan."""
    return int((table[EDITED_FROM] != FROM_CANDIDATE).sum()) if EDITED_FROM in table.columns else 0


def sample_id(class_name: str, index: int) -> str:
    """Return the id of candidate `index` of a class. It has no information about any record."""
    return f"{class_name}-{index:06d}"


class Candidates:
    """Read access to a finished candidates directory.

    Raises:
        DataError: the directory is not a finished candidate set, or its files do not fit together.
    """

    def __init__(self, folder: Path) -> None:
        import pandas as pd

        self.folder = folder
        self.reference = load_reference(CandidatesRef, folder)
        self.shards = PixelShards(folder, role="candidates")
        self.table: pd.DataFrame = pd.read_parquet(folder / TABLE_NAME)
        missing = [column for column in CANDIDATE_COLUMNS if column not in self.table.columns]
        if missing or len(self.table) != len(self.shards):
            raise DataError(
                "candidates.parquet does not fit the pixels",
                field="candidates",
                value=missing or None,
                remedy="Sample again.",
            )
        if CONDITION_COLUMN not in self.table.columns:
            self.table[CONDITION_COLUMN] = ""

    @property
    def digest(self) -> str:
        """The candidates' content digest (sha256, hex)."""
        return self.reference.digest

    def __len__(self) -> int:
        return len(self.shards)

    def take(self, rows: npt.NDArray[np.integer] | list[int]) -> StoredPixels:
        """Return stored pixels of `rows`: (n, 1, H, W) uint8 or uint16."""
        return self.shards.take(rows)

    def images(self, rows: npt.NDArray[np.integer] | list[int]) -> npt.NDArray[np.float32]:
        """Return images of `rows` in model range: (n, 1, H, W) float32 in [-1, 1]."""
        return to_model_range(self.take(rows))


@dataclass(frozen=True)
class Requested:
    """What was requested of images besides their class.

    Attributes:
        attributes: attribute -> value of each image, or None.
        findings: finding -> 1, 0 or None of each image.
    """

    attributes: dict[str, list[str | None]]
    findings: dict[str, list[int | None]]


def requested_of(conditions: Sequence[str]) -> Requested:
    """Return what was requested of candidates, from the texts of the `condition` column."""
    read = {text: json.loads(text) if text else {} for text in set(conditions)}
    findings = {text: body.pop(FINDINGS, {}) for text, body in read.items()}

    def columns(bodies: dict[str, dict[str, Any]]) -> dict[str, list[Any]]:
        names = dict.fromkeys(name for body in bodies.values() for name in body)
        return {name: [bodies[text].get(name) for text in conditions] for name in names}

    return Requested(columns(read), columns(findings))


def written_columns(table: pd.DataFrame) -> list[str]:
    """Return the columns to write for a candidate table.

    `condition` is included only if a row has conditions, `edited_from` only for edited candidates.
    """
    conditioned = CONDITION_COLUMN in table.columns and bool((table[CONDITION_COLUMN] != "").any())
    further = [*([CONDITION_COLUMN] if conditioned else []), *([EDITED_FROM] if EDITED_FROM in table else [])]
    return [*CANDIDATE_COLUMNS, *further]


def write_candidate_table(folder: Path, table: pd.DataFrame) -> str:
    """Write `candidates.parquet` with exactly the columns of `written_columns`; return its name."""
    write_parquet(folder / TABLE_NAME, table.loc[:, written_columns(table)], private=True)
    return TABLE_NAME
