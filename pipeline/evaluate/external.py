"""External tests: the trained classifiers on the cohorts of other sites."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.arrays import Ints
from pipeline.artifacts.cohort import Cohort, open_cohort
from pipeline.artifacts.evaluation_report import ExternalArm, ExternalTest, count_external_reads
from pipeline.artifacts.findings import real_findings
from pipeline.errors import DataError
from pipeline.evaluate.arms import Images
from pipeline.evaluate.lineage import shared_scans
from pipeline.evaluate.plan import as_external
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.subgroups import masks
from pipeline.evaluate.trained import Trained
from pipeline.evaluate.truth import Question, Targets, Truth, patient_numbers
from pipeline.evaluate.utility import TestSplit, Utility, compare, not_measured
from pipeline.records import CohortRef


@dataclass(frozen=True)
class External:
    """The cohort of another site. All its scans are test scans, because none was trained on.

    Attributes:
        cohort: the opened cohort.
        truth: what is true of each scan, numbered as in the cohort of the release, and its patient.
        names: classes or findings that the classifiers are asked for.
        notes: notes for the report.
    """

    cohort: Cohort
    truth: Truth
    names: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def key(self) -> str:
        """Name of its predictions."""
        return f"external-{self.cohort.digest[:12]}"

    @property
    def rows(self) -> Ints:
        """Row numbers of its scans: all of them."""
        return np.arange(len(self.truth.labels), dtype=np.int64)

    def images(self) -> Images:
        """Return its scans in model range: (n, 1, H, W) float32 in [-1, 1]."""
        return self.cohort.images(self.rows)


def open_external(
    given: Sequence[Path | CohortRef], cohort: Cohort, *, made_from: str = ""
) -> tuple[External, ...]:
    """Open the cohorts of other sites, sorted by name, each once, and check that they can be external tests.

    Args:
        given: the cohorts, by their directories or references.
        cohort: the cohort of the release.
        made_from: digest of the cohort that the generator of the release was trained on, if known.

    Raises:
        DataError: one is not a finished cohort, has other classes or another image size, shares scans with
            the cohort of the release, or is what the release was made from.
    """
    found: dict[str, External] = {}
    for place in given:
        try:
            other = open_cohort(place)
            if other.digest not in found:
                found[other.digest] = _checked(other, cohort, made_from)
        except DataError as error:
            raise as_external(error, place) from error
    return tuple(sorted(found.values(), key=lambda own: (own.cohort.info.name, own.cohort.digest)))


def _checked(other: Cohort, cohort: Cohort, made_from: str) -> External:
    question = Question.of(cohort)
    labels = _answers(other, question)
    if other.info.image_size != cohort.info.image_size:
        height, width = cohort.info.image_size
        raise DataError(
            f"its images are {other.info.image_size[0]}x{other.info.image_size[1]}, "
            f"those of the release's cohort {height}x{width}",
            remedy=f"Ingest it again with --set ingest.image_size={height}.",
        )
    if made_from == other.digest:
        raise DataError(
            "the generator of the release was trained on it, so the test would not be external",
            remedy="Name a cohort that the release was not made from.",
        )
    shared = shared_scans(other, cohort)
    if shared:
        raise DataError(
            f"{shared:,} of its {other.info.num_scans:,} scans are also in the release's cohort, so the test "
            "would not be external",
            remedy="Exclude them in its manifest and ingest it again, or name another cohort.",
        )
    rows = np.arange(other.info.num_scans, dtype=np.int64)
    truth = Truth(labels, patient_numbers(other), masks(other, rows))
    return External(other, truth, question.names, _notes(other, cohort))


def _answers(other: Cohort, question: Question) -> Targets:
    """Return the answers (n,) or (n, K) to the question of the release's cohort, for all scans of another.

    Raises:
        DataError: the other cohort has other classes, or lacks a finding.
    """
    asked, names = ("findings", other.info.findings) if question.columns else ("classes", other.info.classes)
    missing = [name for name in question.names if name not in names]
    unknown = [name for name in names if name not in question.names]
    if unknown if asked == "classes" else missing:
        parts = [("is not known", unknown if asked == "classes" else []), ("is missing", missing)]
        said = ", ".join(f"{', '.join(own)} {words}" for words, own in parts if own)
        raise DataError(
            f"its {asked} are not those of the release's cohort: {said}",
            remedy="Map its labels to the same names in its manifest, and ingest it again.",
        )
    if question.columns:
        rows = np.arange(other.info.num_scans, dtype=np.int64)
        return real_findings(other, rows)[:, [names.index(name) for name in question.names]]
    positions = np.array([question.names.index(name) for name in names], dtype=np.int64)
    return positions[np.asarray(other.labels)]


def _notes(other: Cohort, cohort: Cohort) -> tuple[str, ...]:
    """Return what is known about patients that may be in both cohorts."""
    if not other.info.has_patient_ids:
        return ("its patients are not known, so each scan counts as its own patient",)
    if not cohort.info.has_patient_ids:
        return ()
    names = [set(part.records()["patient_id"].dropna()) - {""} for part in (other, cohort)]
    shared = len(names[0] & names[1])
    if not shared:
        return ()
    return (
        f"{shared:,} of its patient ids are also ids of the release's cohort: they are the same patients, or "
        "the sites number their patients alike",
    )


def measure_external(
    own: External,
    trained: Trained,
    utility: Utility,
    settings: EvaluateSettings,
    *,
    seed: int,
    log: Path,
    evaluation: str,
    resumed: bool,
) -> ExternalTest:
    """Apply the classifiers of the arms that are read on test to all scans of another site.

    Nothing is chosen here: the synthetic arm is the one that was best on val.

    Args:
        own: the cohort of the other site.
        trained: predictions of all arms, those of `own.key` among them.
        utility: the internal result.
        settings: settings of the stage.
        seed: run seed.
        log: log of the external reads.
        evaluation: digest of everything that determines the evaluation.
        resumed: whether the evaluation resumes after an interruption.
    """
    info, digest = own.cohort.info, own.cohort.digest
    arms: tuple[ExternalArm, ...] = ()
    if not utility.to_read:
        verdict = not_measured("no arm was chosen on the val split")
    elif lacking := own.truth.lacking(own.names):
        verdict = not_measured(f"the cohort has fewer than 2 patients of {', '.join(lacking)}")
    else:
        readings = {arm: trained.of(arm, own.key) for arm in utility.to_read}
        inner = utility.test
        found = compare(
            TestSplit(own.truth, readings, log, cohort=digest, evaluation=evaluation, resumed=resumed),
            utility.to_read,
            utility.chosen,
            names=own.names,
            num_seeds=len(trained.seeds),
            settings=settings,
            # The figures of a cohort do not depend on which others are given.
            rng=np.random.default_rng([seed, 3, int(digest[:8], 16)]),
            seed_draws=None if inner is None else inner.draws.seeds,
            score=f"AUC on {info.name}",
        )
        verdict = found.verdict
        arms = tuple(
            ExternalArm(
                key=arm.key,
                words=arm.words,
                metrics={name: metric.estimate for name, metric in metrics.items()},
                auc_by_seed=tuple(metrics["auc"].by_seed.tolist()),
                drop=None if inner is None else inner.arms[arm]["auc"].minus(metrics["auc"]),
            )
            for arm, metrics in found.arms.items()
        )
    return ExternalTest(
        name=info.name,
        digest=digest,
        num_scans=info.num_scans,
        num_patients=info.num_patients if info.has_patient_ids else None,
        reads=count_external_reads(log, digest),
        arms=arms,
        utility=verdict,
        notes=own.notes,
    )
