"""The classifier that settings name: a built-in one, or a function of the user's own."""

from __future__ import annotations

import importlib

from pipeline.errors import UsageError
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.training import BuiltIn, FitPredict


def classifier_of(settings: EvaluateSettings) -> FitPredict:
    """Return the classifier of `evaluate.classifier`.

    Raises:
        UsageError: there is no such module or function, or importing it failed.
    """
    module, _, name = settings.classifier.partition(":")
    if not name:
        return BuiltIn.of(settings)
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # whatever the user's module raises
        raise UsageError(
            f"cannot be imported ({type(error).__name__})",
            field="evaluate.classifier",
            value=settings.classifier,
            remedy="Name module:function, and put the module's folder into PYTHONPATH.",
        ) from error
    if not callable(found):
        raise UsageError(
            "is not a function",
            field="evaluate.classifier",
            value=settings.classifier,
            remedy="Name a function as pipeline.evaluate.training.FitPredict describes it.",
        )
    classifier: FitPredict = found
    return classifier
