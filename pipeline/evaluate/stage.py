"""The evaluate stage: measures a release against its cohort and writes the results."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.append_log import EXTERNAL_READS_NAME, READS_NAME, log_beside
from pipeline.arrays import Ints
from pipeline.artifacts.cohort import Cohort, open_cohort
from pipeline.artifacts.evaluation_report import REPORT_NAME, EvaluationReport, count_reads
from pipeline.artifacts.release import ReleasedImages, cohorts_behind, read_release
from pipeline.evaluate.agreement import label_agreement, shuffled_agreement
from pipeline.evaluate.arms import Arm, Pool
from pipeline.evaluate.classifiers import classifier_of
from pipeline.evaluate.external import External, measure_external, open_external
from pipeline.evaluate.fidelity.encoder import cohort_encoder, extractor
from pipeline.evaluate.fidelity.features import real_features, released_features
from pipeline.evaluate.fidelity.measure import measure_fidelity
from pipeline.evaluate.fidelity.neighbours import nearest_real
from pipeline.evaluate.lineage import held_out, require_unseen
from pipeline.evaluate.logged_test import TestSplit
from pipeline.evaluate.plan import plan_evaluate, require_image_size
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.trained import Sets, Trained, train_arms
from pipeline.evaluate.training import Classifier, FitPredict, OfImages
from pipeline.evaluate.truth import Question, patient_numbers
from pipeline.evaluate.utility import Utility, measure_utility, not_measured
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
    external: Sequence[Path | CohortRef] = (),
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
        external: cohorts of other sites, on all scans of which the trained classifiers are tested too.

    Returns:
        The reference; `evaluation.json` follows `pipeline.artifacts.evaluation_report.EvaluationReport`.

    Raises:
        TamperedError: a file of the release differs from what was recorded.
        DataError: release and cohort do not belong together, an image is a val or test scan, a cohort is no
            external test of them, or a classifier of the user's own failed.
        UsageError: there is no such classifier, or the images are too small for it.
        OutputExistsError: `out` holds something else.
    """
    real = open_cohort(cohort)
    if fit_predict is None:
        require_image_size(settings, real.info.image_size)
    own = None if fit_predict is None else OfImages(fit_predict)
    classifier = own or classifier_of(settings, Question.of(real), out)
    released = read_release(release, real)
    require_unseen(released, real, held_out(real), "val or test scans of the cohort")
    others = open_external(external, real, made_from=cohorts_behind(released.reference.path))
    for other in others:
        require_unseen(released, other.cohort, other.rows, f"scans of {other.cohort.info.name}")
    plan = plan_evaluate(
        released.reference,
        real.reference,
        settings,
        seed=seed,
        fit_predict=fit_predict,
        external=[other.cohort.reference for other in others],
    )
    with plan.wanted.open(out, force=force) as stage:
        if stage.finished is not None:
            logger.info("reusing the finished evaluation in %s", out)
            return stage.finished
        measured = _measure(stage, real, released, others, settings, seed=seed, classifier=classifier)
        return stage.finish(*measured)


def _measure(
    stage: StageFolder[EvaluationRef],
    cohort: Cohort,
    release: ReleasedImages,
    external: tuple[External, ...],
    settings: EvaluateSettings,
    *,
    seed: int,
    classifier: Classifier,
) -> tuple[list[str], dict[str, int]]:
    """Run all measurements and write the results; return the names of the files and the counts."""
    made = Pool(release.labels, release.take, release.findings)
    others = {other.key: other.pixels() for other in external if not other.lacking}
    sets = Sets.of(cohort, made, requested=release.attributes, others=others)
    trained = train_arms(sets, stage.path, settings, seed=seed, classifier=classifier)
    patients = patient_numbers(cohort)
    log, rng = log_beside(stage.path, READS_NAME), np.random.default_rng([seed, 1])
    utility, notes = _utility(
        cohort, sets.question, trained, settings, patients=patients, rng=rng, stage=stage, log=log
    )
    notes = [*sets.question.notes, *trained.notes, *notes]
    reads = count_reads(log, cohort.digest)
    tests = [
        measure_external(
            other,
            trained,
            utility,
            settings,
            seed=seed,
            log=log_beside(stage.path, EXTERNAL_READS_NAME),
            evaluation=stage.inputs_digest,
            resumed=stage.resumed,
        )
        for other in external
    ]
    report = EvaluationReport(
        cohort_digest=cohort.digest,
        release_digest=release.reference.digest,
        arms=utility.arms,
        utility=utility.verdict,
        **reads,
        external=tuple(tests),
        asked="findings" if sets.question.columns else "classes",
        curves=trained.curves,
        settings=settings.model_dump(mode="json"),
        **_pictures(cohort, release, patients, settings, seed=seed, notes=tuple(notes)),
        **_agreement(sets, trained, np.random.default_rng([seed, 2])),
    )
    write_json(stage.path / REPORT_NAME, report.model_dump(mode="json"), private=True)
    read: dict[str, tuple[Ints, Sequence[Arm]]] = {
        "val": (cohort.rows("val"), tuple(trained.readings)),
        "test": (cohort.rows("test"), utility.test_arms),
    }
    for other, test in zip(external, tests, strict=True):
        read[other.key] = (other.rows, utility.to_read if test.arms else ())
    predictions = _predictions(len(sets.question.names), trained, read)
    write_parquet(stage.path / PREDICTIONS_NAME, predictions, private=True)
    for verdict in (utility.verdict, *(test.utility for test in tests)):
        logger.info("%s", verdict.words)
    counts = {"released": len(release), "arms": len(report.arms), "test_reads": reads["test_reads"]}
    if tests:
        counts["external_scans"] = sum(test.num_scans for test in tests)
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
    features = extractor(encoder)
    logger.info("feature encoder %s: %s", encoder.digest[:12], features)
    synthetic = released_features(encoder, release)
    train = real_features(encoder, cohort, "train", patients)
    val = real_features(encoder, cohort, "val", patients)
    fidelity, more = measure_fidelity(synthetic, val, train, classes, rng=np.random.default_rng([seed, 0]))
    nearest = nearest_real(
        release, synthetic, train, cohort.rows("train"), classes=classes, count=settings.num_neighbours
    )
    return {
        "extractor": features,
        "extractor_digest": encoder.digest,
        "fidelity": fidelity,
        "nearest": nearest,
        "notes": (*_origin_notes(cohort, release), *more, *notes),
    }


def _agreement(sets: Sets, trained: Trained, rng: np.random.Generator) -> dict[str, Any]:
    """Measure the label agreement of classifiers trained on real scans, on released images and val scans."""
    if not trained.readings:
        return {"label_agreement": {}, "label_agreement_shuffled": {}}
    names, real = sets.question.names, sets.val_targets
    intended = sets.synthetic.targets(sets.question, np.arange(len(sets.synthetic)))
    read = trained.read("synthetic", intended)
    return {
        "label_agreement": label_agreement(read, intended, names),
        "label_agreement_shuffled": shuffled_agreement(read, intended, names, rng),
        "label_agreement_real": label_agreement(trained.read("val", real), real, names),
    }


def _utility(
    cohort: Cohort,
    question: Question,
    trained: Trained,
    settings: EvaluateSettings,
    *,
    patients: npt.NDArray[np.int64],
    rng: np.random.Generator,
    stage: StageFolder[EvaluationRef],
    log: Path,
) -> tuple[Utility, list[str]]:
    names = question.names
    if not trained.readings:
        return Utility((), not_measured(trained.notes[0])), []
    val, test = (question.truth(cohort, split, patients) for split in ("val", "test"))
    notes = [
        f"the {name} split has fewer than 2 patients of {', '.join(lacking)}"
        for name, truth in (("val", val), ("test", test))
        if (lacking := truth.lacking(names))
    ]
    if val.lacking(names):
        return Utility((), not_measured("the val split has too few patients of a class")), notes
    split = None
    if not test.lacking(names):
        split = TestSplit(
            test,
            {arm: trained.of(arm, "test") for arm in trained.readings},
            log,
            cohort=cohort.digest,
            evaluation=stage.inputs_digest,
            resumed=stage.resumed,
        )
    on_val = {arm: trained.of(arm, "val") for arm in trained.readings}
    measured = measure_utility(
        on_val,
        val,
        split,
        seeds=trained.seeds,
        names=names,
        settings=settings,
        rng=rng,
    )
    return measured, notes


def _predictions(
    num_columns: int, trained: Trained, read: Mapping[str, tuple[Ints, Sequence[Arm]]]
) -> pd.DataFrame:
    """Return one row per classifier and scan, with row numbers and probabilities only (private).

    Args:
        num_columns: number of probabilities of a scan.
        trained: predictions of all arms.
        read: set name -> row numbers of its scans, and the arms to write.
    """
    import pandas as pd

    names = [f"probability_{column}" for column in range(num_columns)]
    parts = []
    for arm in trained.readings:
        for split, (rows, arms) in read.items():
            if arm not in arms:
                continue
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
    made_from = cohorts_behind(release.reference.path)
    if made_from and cohort.digest not in made_from:
        return ["the release was made from another cohort than the one it is compared with"]
    return []
