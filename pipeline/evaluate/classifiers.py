"""The classifier that settings name: a built-in one, or a function or program of the user's own."""

from __future__ import annotations

from pathlib import Path

from pipeline.evaluate.own.command import CommandClassifier
from pipeline.evaluate.own.function import FunctionClassifier
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.trained import JOBS_FOLDER
from pipeline.evaluate.training import BuiltIn, Classifier
from pipeline.evaluate.truth import Question


def classifier_of(settings: EvaluateSettings, question: Question, out: Path) -> Classifier:
    """Return the classifier of `evaluate.classifier`.

    Args:
        settings: settings of the evaluation.
        question: what the classifiers are asked.
        out: directory of the results, where a classifier of the user's own has its logs.

    Raises:
        UsageError: there is no such function or program, or importing the function failed.
    """
    if settings.classifier == "command":
        return CommandClassifier(settings, question, out / JOBS_FOLDER)
    if settings.is_own_classifier:
        return FunctionClassifier(settings, out / JOBS_FOLDER)
    return BuiltIn.of(settings)
