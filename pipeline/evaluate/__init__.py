"""Evaluate: fidelity, utility and label agreement of a release against its real cohort, with intervals."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.evaluate.settings import EvaluateSettings

if TYPE_CHECKING:
    from pipeline.evaluate.training import FitPredict
    from pipeline.records import EvaluationRef

__all__ = ["EvaluateSettings", "run_evaluate"]


def run_evaluate(
    release: Path,
    cohort: Path,
    out: Path,
    settings: EvaluateSettings,
    *,
    seed: int,
    force: bool = False,
    fit_predict: FitPredict | None = None,
) -> EvaluationRef:
    """Measure a release against its cohort and write the numbers to `out` (private).

    Args:
        release: a finished release directory.
        cohort: the cohort that holds the real train, val and test splits.
        out: the output directory; what a killed run finished there is used.
        settings: how to measure.
        seed: run seed; classifier seeds derive from it.
        force: replace an output of other inputs.
        fit_predict: another classifier than the built-in small CNN (a function or object with a `__module__`
            and a name; see `pipeline.evaluate.training.FitPredict`).

    Returns:
        The reference; `evaluation.json` follows `pipeline.artifacts.evaluation_report.EvaluationReport`.

    Raises:
        TamperedError: a file of the release differs from what was recorded.
        DataError: release and cohort do not fit together.
        OutputExistsError: `out` holds something else.
    """
    from pipeline.evaluate.stage import evaluate

    return evaluate(release, cohort, out, settings, seed=seed, force=force, fit_predict=fit_predict)
