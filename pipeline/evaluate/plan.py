"""Plan and cost estimate of an evaluation, from the measured time of one training step of a classifier."""

from __future__ import annotations

import contextlib
import math
import shutil
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.cost.estimate import (
    PAGE_BYTES,
    Cost,
    Foreseen,
    Given,
    StagePlan,
    Workload,
    known_digest,
    workload_of,
)
from pipeline.cost.memory import device_peak, reset_device_peak
from pipeline.errors import DataError, UsageError
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.records import CohortRef, EvaluationRef, ReleaseRef
from pipeline.stage import StageInputs, folder_of, reference_of
from pipeline.storage import digest_of, sha256_file

if TYPE_CHECKING:
    from pipeline.evaluate.training import FitPredict


def plan_evaluate(
    release: Given[ReleaseRef],
    cohort: Given[CohortRef],
    settings: EvaluateSettings,
    *,
    seed: int,
    fit_predict: FitPredict | None = None,
    external: Sequence[Path | CohortRef] = (),
) -> StagePlan[EvaluationRef]:
    """Return the plan of `run_evaluate` with these arguments.

    Raises:
        DataError: release or a cohort is not a finished output.
    """
    others = external_references(external)
    inputs = {"release": known_digest(ReleaseRef, release), "cohort": known_digest(CohortRef, cohort)}
    own = classifier_digest(settings)
    if fit_predict is not None:
        inputs["classifier"] = _name_of(fit_predict)
    elif own is not None:
        inputs["classifier"] = own
    if others:
        inputs["external"] = digest_of(sorted({other.digest for other in others}))

    def num_released() -> int:
        if isinstance(release, Foreseen):
            return release.num_images
        return reference_of(ReleaseRef, release).counts.get("images", 0)

    return StagePlan(
        StageInputs(EvaluationRef, inputs, settings.content_settings(), seed),
        estimate=lambda: estimate_evaluate(
            settings,
            workload_of(cohort),
            num_released(),
            num_external=sum(other.counts.get("scans", 0) for other in others),
        ),
        foresee=lambda: Foreseen(workload_of(cohort)),
        note=lambda: not_counted(settings),
    )


def require_image_size(settings: EvaluateSettings, image_size: tuple[int, int]) -> None:
    """Check that the built-in classifier can read images of this (height, width) in pixels.

    Raises:
        UsageError: it needs larger ones.
    """
    from models.evaluation.classifier import SMALLEST_SIDES

    needed = {str(name): side for name, side in SMALLEST_SIDES.items()}.get(settings.classifier, 0)
    if min(image_size) < needed:
        raise UsageError(
            f"reads images of at least {needed} pixels a side; these are {image_size[0]}x{image_size[1]}",
            field="evaluate.classifier",
            value=settings.classifier,
            remedy="Name small_cnn or resnet18, or ingest larger images (ingest.image_size).",
        )


def external_references(external: Sequence[Path | CohortRef]) -> list[CohortRef]:
    """Return the references of the cohorts of other sites.

    Raises:
        DataError: one is not a finished cohort.
    """
    found = []
    for given in external:
        try:
            found.append(reference_of(CohortRef, given))
        except DataError as error:
            raise as_external(error, given) from error
    return found


def as_external(error: DataError, given: Path | CohortRef) -> DataError:
    """Return the error as one of `--test-cohort`, of the same class."""
    return type(error)(error.problem, field="--test-cohort", value=str(folder_of(given)), remedy=error.remedy)


def estimate_evaluate(
    settings: EvaluateSettings, work: Workload, num_released: int, *, num_external: int = 0
) -> Cost:
    """Estimate the cost of an evaluation: one classifier per arm and seed, in parallel, and the encoder.

    A classifier of the user's own has an unknown cost: only the files that it is given are counted.

    Args:
        settings: settings of the stage.
        work: size of the cohort.
        num_released: number of released images.
        num_external: number of scans of the cohorts of other sites.
    """
    import torch

    from models.evaluation.classifier import build_classifier
    from models.optim.memory import saved_bytes
    from pipeline.evaluate.training import BuiltIn, num_workers, step_seconds

    require_image_size(settings, work.image_size)
    own = settings.is_own_classifier
    if own:
        # For the encoder, which is one.
        settings = settings.model_copy(update={"classifier": "small_cnn"})
    num_jobs = num_arms(settings) * settings.seeds * len(set(settings.budgets))
    num_classes = max(work.num_classes, 2)
    images = torch.zeros(2 * num_classes, 1, *work.image_size)
    reset_device_peak()
    step = step_seconds(BuiltIn.of(settings).training, images, num_classes)
    on_device = device_peak()
    limit = math.inf if settings.max_minutes is None else 60.0 * settings.max_minutes
    steps = settings.num_steps * sum(set(settings.budgets)) / len(set(settings.budgets))
    seconds = 0.0 if own else min(num_jobs * steps * step / num_workers(), limit)
    generator = torch.Generator().manual_seed(0)
    network = build_classifier(
        BuiltIn.of(settings).training.network,
        num_classes,
        work.image_size,
        dropout=settings.dropout,
        generator=generator,
    ).train()
    # Each worker holds the pixels of its arm, twice while real and synthetic ones are joined, and the
    # activations saved for its backward pass. The norm layers need two images at a time.
    a_worker = 2 * (work.num_train + num_released) * work.image_bytes
    if not own:
        a_worker += settings.batch_size * saved_bytes(lambda count: network(images[: 2 * count])) // 2
    num_tested = work.num_val + work.num_test + num_external
    asked = (num_tested + num_released) * work.image_bytes
    files = num_workers() * (a_worker + asked) if own else 0
    return Cost.here(
        seconds + settings.encoder_steps * step + 3.0,
        disk_bytes=num_jobs * num_tested * work.num_classes * 8 + PAGE_BYTES // 3 + files,
        more_bytes=num_workers() * a_worker + asked,
        device_bytes=on_device,
    )


def num_arms(settings: EvaluateSettings) -> int:
    """Return how many arms there are at most: some exist once for each ratio or strength."""
    by_ratio = ("real_duplicated", "real_synthetic", "real_weighted", "agreeing", "uncertain")
    times = {name: len(set(settings.ratios)) for name in by_ratio} | {"real_strong": len(settings.strengths)}
    return sum(times.get(name, 1) for name in settings.arms)


def not_counted(settings: EvaluateSettings) -> str:
    """Return in words what `estimate_evaluate` leaves out; empty if nothing."""
    if not settings.is_own_classifier:
        return ""
    return (
        "time and memory of your own classifier are unknown and not counted: "
        f"up to {num_arms(settings) * settings.seeds} trainings, each ended after "
        f"{settings.classifier_minutes:g} min"
    )


def classifier_digest(settings: EvaluateSettings) -> str | None:
    """Return the digest of the files of a user's function or command, so that a changed one counts.

    These are the file of the function's module, or the program and its arguments that are files. Nothing is
    imported.

    Returns:
        The digest; empty if there is no such file, and None if the classifier is built in.
    """
    if not settings.is_own_classifier:
        return None
    if settings.classifier != "command":
        spec = _module_spec(settings.classifier.partition(":")[0])
        return sha256_file(Path(spec.origin)) if spec and spec.origin and spec.has_location else ""
    program, *arguments = settings.command_words
    files = [Path(word) for word in (shutil.which(program), *arguments) if word]
    found = {}
    for number, path in enumerate(files):
        with contextlib.suppress(OSError):  # an option can be too long for a path
            if path.is_file():
                found[str(number)] = sha256_file(path)
    return digest_of(found) if found else ""


def _module_spec(module: str) -> ModuleSpec | None:
    """Find a module without importing it or the packages that it is in."""
    package = module.rpartition(".")[0]
    outer = _module_spec(package) if package else None
    places = outer.submodule_search_locations if outer else None
    if package and places is None:
        return None
    found = (finder.find_spec(module, places) for finder in sys.meta_path)
    return next((spec for spec in found if spec is not None), None)


def _name_of(fit_predict: FitPredict) -> str:
    """Return the name by which the inputs digest distinguishes this classifier from others."""
    name = getattr(fit_predict, "__qualname__", type(fit_predict).__qualname__)
    return f"{fit_predict.__module__}.{name}"
