"""The evaluate stage: measures a release against its cohort and writes the results."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.append_log import READS_NAME, log_beside
from pipeline.artifacts.cohort import Cohort, open_cohort
from pipeline.artifacts.evaluation_report import REPORT_NAME, EvaluationReport, count_reads
from pipeline.artifacts.release import ReleasedImages, cohort_behind, read_release
from pipeline.evaluate.agreement import label_agreement, shuffled_agreement
from pipeline.evaluate.arms import Arm, Pool
from pipeline.evaluate.classifiers import classifier_of
from pipeline.evaluate.encoder import EXTRACTOR, cohort_encoder
from pipeline.evaluate.fidelity import FeatureSet, measure_fidelity
from pipeline.evaluate.neighbours import nearest_real
from pipeline.evaluate.plan import plan_evaluate
from pipeline.evaluate.real import features, patient_numbers, real_features, truth_of
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.trained import Sets, Trained, train_arms
from pipeline.evaluate.training import FitPredict
from pipeline.evaluate.utility import TestSplit, Utility, measure_utility, not_measured
from pipeline.records import CohortRef, EvaluationRef, ReleaseRef
from pipeline.stage import StageFolder
from pipeline.storage import write_json, write_parquet

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

PREDICTIONS_NAME = "predictions.parquet"


def run_evaluate(
    release: Path | ReleaseRef,
    cohort: Path | CohortRef,
    out: Path,
    settings: EvaluateSettings,
    *,
    seed: int,
    force: bool = False,
    fit_predict: FitPredict | None = None,
) -> EvaluationRef:
    """Measure a release against its cohort and write the numbers to `out` (private).

    Args:
        release: the release, by its directory or reference.
        cohort: the cohort that holds the real train, val and test splits.
        out: the output directory; results of an interrupted run there are reused.
        settings: settings of the evaluation.
        seed: run seed, from which classifier seeds are derived.
        force: replace an output of other inputs.
        fit_predict: classifier to use instead of the built-in one (a function or object with a
            `__module__` and a name; see `pipeline.evaluate.training.FitPredict`).

    Returns:
        The reference; `evaluation.json` follows `pipeline.artifacts.evaluation_report.EvaluationReport`.

    Raises:
        TamperedError: a file of the release differs from what was recorded.
        DataError: release and cohort do not belong together, or a classifier of the user's own failed.
        UsageError: there is no such classifier.
        OutputExistsError: `out` holds something else.
    """
    real = open_cohort(cohort)
    classifier = fit_predict or classifier_of(settings, real.info.classes, out)
    released = read_release(release, real)
    plan = plan_evaluate(released.reference, real.reference, settings, seed=seed, fit_predict=fit_predict)
    with plan.wanted.open(out, force=force) as stage:
        if stage.finished is not None:
            logger.info("reusing the finished evaluation in %s", out)
            return stage.finished
        return stage.finish(*_measure(stage, real, released, settings, seed=seed, classifier=classifier))


def _measure(
    stage: StageFolder[EvaluationRef],
    cohort: Cohort,
    release: ReleasedImages,
    settings: EvaluateSettings,
    *,
    seed: int,
    classifier: FitPredict,
) -> tuple[list[str], dict[str, int]]:
    """Run all measurements and write the results; return the names of the files and the counts."""
    sets = Sets.of(cohort, Pool(release.labels, release.images))
    trained = train_arms(sets, stage.path, settings, seed=seed, classifier=classifier)
    patients = patient_numbers(cohort)
    log, rng = log_beside(stage.path, READS_NAME), np.random.default_rng([seed, 1])
    utility, notes = _utility(cohort, patients, trained, settings, rng, stage=stage, log=log)
    reads = count_reads(log, cohort.digest)
    report = EvaluationReport(
        cohort_digest=cohort.digest,
        release_digest=release.reference.digest,
        extractor=EXTRACTOR,
        arms=utility.arms,
        utility=utility.verdict,
        **reads,
        curves=trained.curves,
        settings=settings.model_dump(mode="json"),
        **_pictures(cohort, release, patients, settings, seed=seed, notes=(*trained.notes, *notes)),
        **_agreement(cohort, release, trained, np.random.default_rng([seed, 2])),
    )
    write_json(stage.path / REPORT_NAME, report.model_dump(mode="json"), private=True)
    predictions = _predictions(cohort, trained, utility.test_arms)
    write_parquet(stage.path / PREDICTIONS_NAME, predictions, private=True)
    logger.info("%s", utility.verdict.words)
    counts = {"released": len(release), "arms": len(report.arms), "test_reads": reads["test_reads"]}
    return [REPORT_NAME, PREDICTIONS_NAME], counts


def _pictures(
    cohort: Cohort,
    release: ReleasedImages,
    patients: npt.NDArray[np.int64],
    settings: EvaluateSettings,
    *,
    seed: int,
    notes: tuple[str, ...],
) -> dict[str, Any]:
    """Measure what is measured on features: fidelity and nearest neighbours."""
    classes = cohort.info.classes
    encoder = cohort_encoder(cohort, settings)
    logger.info("feature encoder %s: %s", encoder.digest[:12], EXTRACTOR)
    synthetic = FeatureSet(
        features(encoder, release.images()), release.labels, np.arange(len(release), dtype=np.int64)
    )
    train = real_features(encoder, cohort, "train", patients)
    val = real_features(encoder, cohort, "val", patients)
    fidelity, more = measure_fidelity(synthetic, val, train, classes, rng=np.random.default_rng([seed, 0]))
    nearest = nearest_real(
        release, synthetic, train, cohort.rows("train"), classes=classes, count=settings.num_neighbours
    )
    return {
        "extractor_digest": encoder.digest,
        "fidelity": fidelity,
        "nearest": nearest,
        "notes": (*_origin_notes(cohort, release), *more, *notes),
    }


def _agreement(
    cohort: Cohort, release: ReleasedImages, trained: Trained, rng: np.random.Generator
) -> dict[str, Any]:
    """Measure the label agreement of classifiers trained on real scans, on released images and val scans."""
    if not trained.readings:
        return {"label_agreement": {}, "label_agreement_shuffled": {}}
    classes = cohort.info.classes
    read = trained.read("synthetic")
    val_labels = np.asarray(cohort.labels)[cohort.rows("val")]
    return {
        "label_agreement": label_agreement(read, release.labels, classes),
        "label_agreement_shuffled": shuffled_agreement(read, release.labels, classes, rng),
        "label_agreement_real": label_agreement(trained.read("val"), val_labels, classes),
    }


def _utility(
    cohort: Cohort,
    patients: npt.NDArray[np.int64],
    trained: Trained,
    settings: EvaluateSettings,
    rng: np.random.Generator,
    *,
    stage: StageFolder[EvaluationRef],
    log: Path,
) -> tuple[Utility, list[str]]:
    classes = cohort.info.classes
    if not trained.readings:
        return Utility((), not_measured(trained.notes[0]), ()), []
    val, test = truth_of(cohort, "val", patients), truth_of(cohort, "test", patients)
    notes = [
        f"the {name} split has fewer than 2 patients of {', '.join(lacking)}"
        for name, truth in (("val", val), ("test", test))
        if (lacking := truth.lacking(classes))
    ]
    if val.lacking(classes):
        return Utility((), not_measured("the val split has too few patients of a class"), ()), notes
    split = None
    if not test.lacking(classes):
        split = TestSplit(
            test,
            {arm: trained.of(arm, "test") for arm in trained.readings},
            log,
            cohort=cohort.digest,
            evaluation=stage.inputs_digest,
            resumed=stage.resumed,
        )
    on_val = {arm: trained.of(arm, "val") for arm in trained.readings}
    return measure_utility(on_val, val, split, seeds=trained.seeds, settings=settings, rng=rng), notes


def _predictions(cohort: Cohort, trained: Trained, test_arms: tuple[Arm, ...]) -> pd.DataFrame:
    """Return one row per classifier and scan, with row numbers and probabilities only (private)."""
    import pandas as pd

    names = [f"probability_{label}" for label in range(len(cohort.info.classes))]
    parts = []
    for arm in trained.readings:
        for split in ("val", "test") if arm in test_arms else ("val",):
            rows = cohort.rows(split)
            for s, probabilities in zip(trained.seeds, trained.of(arm, split), strict=True):
                part = pd.DataFrame(probabilities, columns=names)
                part.insert(0, "row", rows)
                part.insert(0, "split", split)
                part.insert(0, "seed", s)
                part.insert(0, "arm", arm.key)
                parts.append(part)
    if not parts:
        return pd.DataFrame({"arm": [], "seed": [], "split": [], "row": [], **{name: [] for name in names}})
    return pd.concat(parts, ignore_index=True)


def _origin_notes(cohort: Cohort, release: ReleasedImages) -> list[str]:
    made_from = cohort_behind(release.reference.path)
    if made_from and made_from != cohort.digest:
        return ["the release was made from another cohort than the one it is compared with"]
    return []
