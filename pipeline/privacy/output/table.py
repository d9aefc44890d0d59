"""The private per-candidate table of an audit."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from pipeline.arrays import Bools
from pipeline.artifacts.candidates import TABLE_NAME, written_columns
from pipeline.artifacts.cohort import Cohort
from pipeline.privacy.audited_set import FILE_COLUMN, AuditedSet
from pipeline.privacy.gate.filter import rule_statistics
from pipeline.privacy.gate.gate import Measured
from pipeline.privacy.search.references import References
from pipeline.privacy.search.views import VIEWS
from pipeline.storage import write_parquet


def write_audit_table(
    folder: Path,
    *,
    audited: AuditedSet,
    cohort: Cohort,
    references: References,
    measured: Measured,
    accepted: Bools,
    reasons: list[str],
) -> str:
    """Write `candidates.parquet` (private: it names the nearest record of each candidate); return its name.

    Columns:
        those of the candidate table;
        `accepted`, `reason`, `nearest_row`, `nearest_sample_id` (the nearest train scan by correlation);
        per view `<view>_train`, `<view>_holdout` (distances), `<view>_ratio`, `<view>_isolation` (log
        ratios);
        `blend_isolation`;
        `file`, for images of another generator only.
    """
    named = [FILE_COLUMN] if FILE_COLUMN in audited.table else []
    table = audited.table.loc[:, [*written_columns(audited.table), *named]].copy()
    rows = references.rows[measured.found.views["correlation"].train_row]
    table["accepted"] = accepted
    table["reason"] = reasons
    table["nearest_row"] = rows.astype(np.int64)
    table["nearest_sample_id"] = cohort.records()["sample_id"].to_numpy()[rows]
    for view in VIEWS:
        found = measured.found.views[view]
        statistics = rule_statistics(found)
        table[f"{view}_train"] = found.train
        table[f"{view}_holdout"] = found.holdout
        table[f"{view}_ratio"] = statistics["ratio"]
        table[f"{view}_isolation"] = statistics["isolation"]
    table["blend_isolation"] = measured.found.blend
    write_parquet(folder / TABLE_NAME, table, private=True)
    return TABLE_NAME
