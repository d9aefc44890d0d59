"""The audit stage: Candidates + Cohort -> privacy report, accept or reject for each candidate, a verdict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline.privacy.stage import run_audit

__all__ = ["run_audit"]


def __getattr__(name: str) -> Any:
    # A recipe is read without torch, which the stage computes with.
    if name != "run_audit":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline.privacy.stage import run_audit

    return run_audit
