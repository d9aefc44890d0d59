"""Plan and cost estimate of an evaluation, from the measured time of one training step of a classifier."""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.artifacts.cohort import Cohort
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
from pipeline.cost.pacing import saved_bytes
from pipeline.errors import DataError
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.records import CohortRef, EvaluationRef, ReleaseRef
from pipeline.stage import StageInputs, folder_of, reference_of
from pipeline.storage import digest_of, sha256_file

if TYPE_CHECKING:
    from pipeline.evaluate.training import FitPredict

_FLOAT_BYTES = 4


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
    if not isinstance(cohort, Foreseen) and Cohort(folder_of(cohort)).info.findings:
        inputs["question"] = "findings"
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
        StageInputs(EvaluationRef, inputs, settings, seed),
        estimate=lambda: estimate_evaluate(
            settings,
            workload_of(cohort),
            num_released(),
            num_external=sum(other.counts.get("scans", 0) for other in others),
        ),
        foresee=lambda: Foreseen(workload_of(cohort)),
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

    Args:
        settings: settings of the stage.
        work: size of the cohort.
        num_released: number of released images.
        num_external: number of scans of the cohorts of other sites.
    """
    import torch

    from models.evaluation.classifier import build_classifier
    from pipeline.evaluate.training import BuiltIn, num_workers, step_seconds

    if ":" in settings.classifier:
        # A function of the user's own is not timed: it counts as the small CNN.
        settings = settings.model_copy(update={"classifier": "small_cnn"})
    num_jobs = num_arms(settings) * settings.seeds * len(set(settings.budgets))
    num_classes = max(work.num_classes, 2)
    images = torch.zeros(2 * num_classes, 1, *work.image_size)
    reset_device_peak()
    step = step_seconds(BuiltIn.of(settings).training, images, num_classes)
    on_device = device_peak()
    limit = math.inf if settings.max_minutes is None else 60.0 * settings.max_minutes
    steps = settings.num_steps * sum(set(settings.budgets)) / len(set(settings.budgets))
    seconds = min(num_jobs * steps * step / num_workers(), limit)
    generator = torch.Generator().manual_seed(0)
    network = build_classifier(
        BuiltIn.of(settings).training.network,
        num_classes,
        work.image_size,
        dropout=settings.dropout,
        generator=generator,
    ).train()
    # Each worker holds its train images and the activations saved for its backward pass. The norm layers need
    # two images at a time.
    a_scan = _FLOAT_BYTES * math.prod(work.image_size)
    a_worker = work.num_train * a_scan
    a_worker += settings.batch_size * saved_bytes(lambda count: network(images[: 2 * count])) // 2
    num_tested = work.num_val + work.num_test + num_external
    asked = (num_tested + num_released) * a_scan
    return Cost.here(
        seconds + settings.encoder_steps * step + 3.0,
        disk_bytes=num_jobs * num_tested * work.num_classes * 8 + PAGE_BYTES // 3,
        more_bytes=num_workers() * a_worker + asked,
        device_bytes=on_device,
    )


def num_arms(settings: EvaluateSettings) -> int:
    """Return how many arms there are at most: some exist once for each ratio or strength."""
    by_ratio = ("real_duplicated", "real_synthetic", "real_weighted", "agreeing", "uncertain")
    times = {name: len(set(settings.ratios)) for name in by_ratio} | {"real_strong": len(settings.strengths)}
    return sum(times.get(name, 1) for name in settings.arms)


def classifier_digest(settings: EvaluateSettings) -> str | None:
    """Return the digest of the file of a user's function, so that a changed one counts; None if built in."""
    module, _, name = settings.classifier.partition(":")
    if not name:
        return None
    try:
        spec = importlib.util.find_spec(module)
    except (ImportError, ValueError):
        return ""
    return sha256_file(Path(spec.origin)) if spec is not None and spec.origin and spec.has_location else ""


def _name_of(fit_predict: FitPredict) -> str:
    """Return the name by which the inputs digest distinguishes this classifier from others."""
    name = getattr(fit_predict, "__qualname__", type(fit_predict).__qualname__)
    return f"{fit_predict.__module__}.{name}"
