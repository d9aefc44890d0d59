"""External tests: the trained classifiers on the cohorts of other sites."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.arrays import Ints
from pipeline.artifacts.cohort import Cohort, open_cohort
from pipeline.artifacts.evaluation_report import ExternalArm, ExternalTest, auc_of, count_external_reads
from pipeline.artifacts.findings import real_findings
from pipeline.artifacts.pixels import StoredPixels
from pipeline.errors import DataError
from pipeline.evaluate.intervals import ArmMetric
from pipeline.evaluate.lineage import shared_scans
from pipeline.evaluate.logged_test import TestSplit
from pipeline.evaluate.plan import as_external
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.subgroups import masks
from pipeline.evaluate.trained import Trained
from pipeline.evaluate.truth import Question, Truth, patient_numbers
from pipeline.evaluate.utility import Utility, compare, not_measured
from pipeline.records import CohortRef


@dataclass(frozen=True)
class External:
    """The cohort of another site. All its scans are test scans, because none was trained on.

    Attributes:
        cohort: the opened cohort.
        truth: what is true of each scan, numbered as in the cohort of the release, and its patient.
        names: classes, or findings, of which it is measured.
        columns: positions of these findings among those that the classifiers are asked for; empty if classes.
        notes: notes for the report.
    """

    cohort: Cohort
    truth: Truth
    names: tuple[str, ...]
    columns: tuple[int, ...]
    notes: tuple[str, ...]

    @property
    def key(self) -> str:
        """Name of its predictions."""
        return f"external-{self.cohort.digest[:12]}"

    @property
    def rows(self) -> Ints:
        """Row numbers of its scans: all of them."""
        return np.arange(len(self.truth.labels), dtype=np.int64)

    @property
    def lacking(self) -> list[str]:
        """Classes or findings with too few patients, without which nothing is measured."""
        return self.truth.lacking(self.names)

    def pixels(self) -> StoredPixels:
        """Return its scans: (n, 1, H, W) uint8 or uint16."""
        return self.cohort.take(self.rows)


def open_external(
    given: Sequence[Path | CohortRef], cohort: Cohort, *, made_from: Sequence[str] = ()
) -> tuple[External, ...]:
    """Open the cohorts of other sites, sorted by name, each once, and check that they can be external tests.

    Args:
        given: the cohorts, by their directories or references.
        cohort: the cohort of the release.
        made_from: digests of the cohorts that the generator of the release has seen, as far as known.

    Raises:
        DataError: one is not a finished cohort, has other classes or another image size, shares scans with
            the cohort of the release, or is one that the generator of the release has seen.
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


def _checked(other: Cohort, cohort: Cohort, made_from: Sequence[str]) -> External:
    question = Question.of(cohort)
    _require_names(other, question)
    if other.info.image_size != cohort.info.image_size:
        height, width = cohort.info.image_size
        raise DataError(
            f"its images are {other.info.image_size[0]}x{other.info.image_size[1]}, "
            f"those of the release's cohort {height}x{width}",
            remedy=f"Ingest it again with --set ingest.image_size={height}.",
        )
    if other.digest in made_from:
        raise DataError(
            "the generator of the release was trained on it, so the test would not be external",
            remedy="Name a cohort that the generator has not seen.",
        )
    shared = shared_scans(other, cohort)
    if shared:
        raise DataError(
            f"{shared:,} of its {other.info.num_scans:,} scans are also in the release's cohort, so the test "
            "would not be external",
            remedy="Exclude them in its manifest and ingest it again, or name another cohort.",
        )
    rows, patients = np.arange(other.info.num_scans, dtype=np.int64), patient_numbers(other)
    groups, notes = masks(other, rows), _notes(other, cohort)
    if not question.columns:
        positions = np.array([question.names.index(name) for name in other.info.classes], dtype=np.int64)
        truth = Truth(positions[np.asarray(other.labels)], patients, groups)
        return External(other, truth, question.names, (), notes)
    found, there = real_findings(other, rows), other.info.findings
    asked = {
        column: found[:, there.index(name)] for column, name in enumerate(question.names) if name in there
    }
    lacking = Truth(np.stack(list(asked.values()), axis=1), patients).lacking(
        [question.names[column] for column in asked]
    )
    kept = tuple(column for column in asked if question.names[column] not in lacking) or tuple(asked)
    names = tuple(question.names[column] for column in kept)
    left_out = [name for name in question.names if name not in names]
    notes = (
        *notes,
        *(f"{name} is left out: too few of its patients are with or without it" for name in left_out),
    )
    truth = Truth(np.stack([asked[column] for column in kept], axis=1), patients, groups)
    return External(other, truth, names, kept, notes)


def _require_names(other: Cohort, question: Question) -> None:
    """Check that a cohort has the classes that are asked for and no other, or at least one of the findings.

    Raises:
        DataError: it has not.
    """
    asked, names = ("findings", other.info.findings) if question.columns else ("classes", other.info.classes)
    missing = [name for name in question.names if name not in names]
    unknown = [] if question.columns else [name for name in names if name not in question.names]
    if unknown or len(missing) == len(question.names):
        said = [
            f"{', '.join(own)} {words}"
            for own, words in ((unknown, "is not known"), (missing, "is missing"))
            if own
        ]
        raise DataError(
            f"its {asked} are not those of the release's cohort: {', '.join(said)}",
            remedy="Map its labels to the same names in its manifest, and ingest it again.",
        )


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
    elif lacking := own.lacking:
        verdict = not_measured(f"the cohort has fewer than 2 patients of {', '.join(lacking)}")
    else:
        columns = list(own.columns) or slice(None)
        readings = {arm: [p[:, columns] for p in trained.of(arm, own.key)] for arm in utility.to_read}
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
                drop=None if inner is None else _inner_auc(inner.arms[arm], own).minus(metrics["auc"]),
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


def _inner_auc(metrics: Mapping[str, ArmMetric], own: External) -> ArmMetric:
    """Return the AUC on the internal test split, of the findings that are measured on the external one."""
    if not own.columns:
        return metrics["auc"]
    each = [metrics[auc_of(name)] for name in own.names]
    by_seed, draws = (np.mean([getattr(one, part) for one in each], axis=0) for part in ("by_seed", "draws"))
    return ArmMetric(by_seed, draws, each[0].num_cases)
