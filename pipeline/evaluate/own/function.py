"""A function of the user's own as classifier: `python -m pipeline.evaluate.own.function FOLDER` calls it.

The folder holds arrays as npy files without pickled objects. So a function that crashes its process, or never
returns, ends one training and not the evaluation.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from models.evaluation.augmentation import Augmentation
from pipeline.artifacts.pixels import StoredPixels, to_model_range
from pipeline.errors import UsageError
from pipeline.evaluate.arm_names import PLAIN_ARMS
from pipeline.evaluate.arms import Arm
from pipeline.evaluate.own.process import ChildError, Children, OwnClassifier
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.training import Fit, Images
from pipeline.evaluate.truth import Targets
from pipeline.storage import write_json

JOB_NAME, RESULT_NAME, FAILURE_NAME = "job.json", "result.json", "failure.json"


class FunctionClassifier(OwnClassifier):
    """A function `module:name` as classifier; the function has the signature of `FitPredict`.

    Args:
        settings: settings with the function as `classifier`.
        folder: folder of the results.

    Raises:
        UsageError: there is no such module or function, or importing it failed.
    """

    def __init__(self, settings: EvaluateSettings, folder: Path) -> None:
        self._function = settings.classifier
        super().__init__(
            _command(),
            folder,
            minutes=settings.classifier_minutes,
            field="evaluate.classifier",
            arms=_arms_of(self._function, settings.classifier_minutes),
        )

    def environment(self) -> dict[str, str]:
        """Return the variables for a process, which finds modules where this process does."""
        return {**super().environment(), **_import_path()}

    def hand_over(
        self,
        folder: Path,
        arm: Arm,
        parts: Sequence[tuple[StoredPixels, Targets]],
        asked: Sequence[StoredPixels],
        *,
        num_classes: int,
        seed: int,
    ) -> None:
        """Write the arguments of the function."""
        for number, (images, labels) in enumerate(parts):
            np.save(folder / f"images-{number}.npy", images, allow_pickle=False)
            np.save(folder / f"labels-{number}.npy", labels, allow_pickle=False)
        for number, images in enumerate(asked):
            np.save(folder / f"asked-{number}.npy", images, allow_pickle=False)
        job = {
            "arm": asdict(arm),
            "parts": len(parts),
            "asked": len(asked),
            "num_classes": num_classes,
            "seed": seed,
        }
        write_json(folder / JOB_NAME, {"function": self._function, "call": job}, private=True)

    def read(self, folder: Path, asked: Sequence[StoredPixels], *, num_classes: int) -> Fit:
        """Read what the function has returned.

        Raises:
            ChildError: it has ended its process instead.
        """
        if not (folder / RESULT_NAME).is_file():
            raise ChildError("ended its process")
        result = json.loads((folder / RESULT_NAME).read_text(encoding="utf-8"))
        scores = [np.load(folder / f"scores-{i}.npy", allow_pickle=False) for i in range(result["scores"])]
        return Fit(tuple(scores), result["curve"])

    def explained(self, folder: Path, failure: ChildError) -> ChildError:
        """Return the exception of the function, if one is the reason."""
        return ChildError(said) if (said := _failure(folder)) else failure


def _command() -> list[str]:
    # -P: the current folder counts if it does here.
    return [sys.executable, "-P", "-m", "pipeline.evaluate.own.function"]


def _import_path() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)}


def _arms_of(function: str, minutes: float) -> frozenset[str]:
    """Import a function in a process of its own; return the arms that it can train."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_json(folder / JOB_NAME, {"function": function, "call": None}, private=True)
        try:
            Children(minutes).run([*_command(), name], folder / "log", _import_path())
            arms = json.loads((folder / RESULT_NAME).read_text(encoding="utf-8"))["arms"]
        except (ChildError, FileNotFoundError) as error:
            problem = error.problem if isinstance(error, ChildError) else "ended its process"
            raise UsageError(
                _failure(folder) or f"cannot be imported: it {problem}",
                field="evaluate.classifier",
                value=function,
                remedy="Name module:function, and put the module's folder into PYTHONPATH. "
                f"`python -c 'import {function.partition(':')[0]}'` shows what happens.",
            ) from error
    return PLAIN_ARMS if arms is None else frozenset(arms)


def _failure(folder: Path) -> str:
    path = folder / FAILURE_NAME
    return str(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else ""


def main(folder: Path) -> None:
    """Call the function of `job.json` and write what it returns, or only import it.

    Args:
        folder: folder of `FunctionClassifier.hand_over`.
    """
    job = json.loads((folder / JOB_NAME).read_text(encoding="utf-8"))
    module, _, name = job["function"].partition(":")
    doing = "cannot be imported"
    try:
        function = getattr(importlib.import_module(module), name)
        if job["call"] is not None:
            doing = "failed"
            result = _call(function, folder, **job["call"])
        elif callable(function):
            arms = getattr(function, "arms", None)
            result = {"arms": None if arms is None else sorted(arms)}
        else:
            write_json(folder / FAILURE_NAME, "is not a function", private=True)
            return
        write_json(folder / RESULT_NAME, result, private=True)
    except Exception as error:
        write_json(folder / FAILURE_NAME, f"{doing} ({type(error).__name__})", private=True)
        raise


def _call(
    function: Any, folder: Path, *, arm: dict[str, Any], parts: int, asked: int, num_classes: int, seed: int
) -> dict[str, Any]:
    def images(name: str) -> Images:
        return to_model_range(np.load(folder / f"{name}.npy", mmap_mode="r"))

    counts = {name: tuple(arm[name]) for name in ("num_real", "num_synthetic")}
    fit = function(
        Arm(**(arm | counts | {"augmentation": Augmentation(**arm["augmentation"])})),
        [(images(f"images-{i}"), np.load(folder / f"labels-{i}.npy")) for i in range(parts)],
        [images(f"asked-{i}") for i in range(asked)],
        num_classes=num_classes,
        seed=seed,
    )
    for number, scores in enumerate(fit.probabilities):
        np.save(folder / f"scores-{number}.npy", np.asarray(scores, dtype=np.float32), allow_pickle=False)
    curve = {str(name): [float(value) for value in values] for name, values in fit.curve.items()}
    return {"scores": len(fit.probabilities), "curve": curve}


if __name__ == "__main__":
    main(Path(sys.argv[1]))
