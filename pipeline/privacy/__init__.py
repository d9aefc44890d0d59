"""The audit stage: Candidates + Cohort -> privacy report, accept or reject for each candidate, a verdict."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.privacy.settings import AuditSettings
    from pipeline.records import AuditRef


def run_audit(
    candidates: Path,
    cohort: Path,
    out: Path,
    settings: AuditSettings,
    *,
    seed: int,
    checkpoint: Path | None = None,
    force: bool = False,
) -> AuditRef:
    """Audit a candidate set against the cohort its generator was trained on.

    Writes `privacy_report.json` (aggregates), `candidates.parquet` and `report.html` (both private) to `out`.

    Args:
        candidates: output of `sample`, or a folder of class-named sub-folders of PNG / JPEG.
        cohort: output of `ingest`.
        out: the audit directory.
        settings: of the gate.
        seed: run seed; folds, the tuning half, planted copies and coin flips are drawn from it.
        checkpoint: if named, it must have been trained on this cohort and have made these candidates; it is
            attacked by membership inference.
        force: replace an audit of other inputs.

    Returns:
        The audit's reference with its verdict; a FAIL is a finished audit.

    Raises:
        DataError: candidates, cohort and checkpoint do not fit together.
        TamperedError: a content file was changed.
    """
    from pipeline.privacy.stage import audit

    return audit(candidates, cohort, out, settings, seed=seed, checkpoint=checkpoint, force=force)
