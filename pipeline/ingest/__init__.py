"""Ingest: from the scans that a manifest names to a de-identified cohort with a patient-level split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

# Worker processes import this package too: everything heavier waits until it is called for.
if TYPE_CHECKING:
    from pipeline.ingest.settings import IngestSettings
    from pipeline.manifest import Manifest
    from pipeline.records import CohortRef

__all__ = ["run_ingest"]


def run_ingest(manifest: Manifest, out: Path, settings: IngestSettings, *, force: bool = False) -> CohortRef:
    """Turn the scans of a manifest into a cohort directory; reuse or resume an earlier one of equal inputs.

    Args:
        manifest: from `pipeline.manifest.load_manifest`.
        out: the cohort directory (made with mode 0700).
        settings: image size, split shares, limits.
        force: replace a cohort of other inputs.

    Raises:
        ManifestError: a table lacks a column, or a path's variable is not set.
        DataError: a folder or table is unreadable, too many scans are refused, a class is too small.
        OutputExistsError: `out` holds something else.
    """
    from pipeline.ingest.stage import ingest

    return ingest(manifest, out, settings, force=force)
