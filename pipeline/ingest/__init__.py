"""Ingest: from the scans that a manifest names to a de-identified cohort with a patient-level split."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.ingest.stage import run_ingest

__all__ = ["run_ingest"]


def __getattr__(name: str) -> Any:
    # Worker processes import this package too: the stage waits until it is called for.
    if name != "run_ingest":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline.ingest.stage import run_ingest

    return run_ingest
