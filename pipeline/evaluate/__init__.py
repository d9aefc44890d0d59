"""Evaluate: fidelity, utility and label agreement of a release against its real cohort, with intervals."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipeline.evaluate.settings import EvaluateSettings

if TYPE_CHECKING:
    from pipeline.evaluate.stage import run_evaluate

__all__ = ["EvaluateSettings", "run_evaluate"]


def __getattr__(name: str) -> Any:
    # A recipe is read without torch, which the stage computes with.
    if name != "run_evaluate":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from pipeline.evaluate.stage import run_evaluate

    return run_evaluate
