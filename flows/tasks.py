"""Thin Prefect tasks, each one call into `pipeline`, cached on the references they read."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from prefect import task
from prefect.cache_policies import INPUTS, NO_CACHE

from flows.logs import debugging, where_raised, write_failure
from pipeline.errors import KEPT, PhosphorError
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.study.plan import Experiment
from pipeline.ingest.settings import IngestSettings
from pipeline.privacy.settings import AuditSettings
from pipeline.records import (
    AuditRef,
    CandidatesRef,
    CellRef,
    CheckpointRef,
    CohortRef,
    EvaluationRef,
    ReleaseRef,
)
from pipeline.release.settings import ReleaseSettings
from pipeline.sample.settings import SampleSettings
from pipeline.train.settings import TrainSettings

_REFERENCE: dict[str, Any] = {
    "cache_policy": INPUTS - "force",
    "result_serializer": "json",
    "persist_result": True,
}


class StageFailedError(PhosphorError):
    """A stage failed with an unexpected error; its traceback is in a private file.

    Attributes:
        transient: whether the same call may succeed later (reading or writing failed).
    """

    transient = False


@contextlib.contextmanager
def _private_failures() -> Iterator[None]:
    """Keep the text of unexpected errors, which may contain paths and names, out of the Prefect database."""
    try:
        yield
    except PhosphorError:
        raise
    except Exception as error:
        if debugging():
            raise
        failure = StageFailedError(
            f"unexpected {where_raised(error)}",
            field="stage",
            remedy=f"The traceback is in {write_failure(error)} (private: it may hold patient data).",
        )
        failure.transient = isinstance(error, OSError)
        if KEPT in getattr(error, "__notes__", ()):
            failure.add_note(KEPT)
        raise failure from None


def _worth_retrying(_task: Any, _run: Any, state: Any) -> bool:
    """Return whether to retry: only failures of reading or writing, not errors that Phosphor explains."""
    return isinstance(state.data, OSError) or getattr(state.data, "transient", False)


_RETRIED: dict[str, Any] = {
    "retries": 2,
    "retry_delay_seconds": 5,
    "retry_condition_fn": _worth_retrying,
}


# Ingest reads files that no reference describes, so the stage itself decides whether its output is current.
@task(name="ingest", cache_policy=NO_CACHE, result_serializer="json", **_RETRIED)
def ingest_task(manifest: Path, out: Path, settings: IngestSettings, force: bool) -> CohortRef:
    """Scans of a manifest -> cohort.

    The manifest is passed by path: Prefect inspects the fields of models that it is given, and would mistake
    a manifest's `keys` field for the method of a mapping.
    """
    from pipeline.ingest import run_ingest
    from pipeline.manifest import load_manifest

    with _private_failures():
        return run_ingest(load_manifest(manifest), out, settings, force=force)


@task(name="train", **_REFERENCE)
def train_task(
    cohort: CohortRef,
    *,
    out: Path,
    settings: TrainSettings,
    seed: int,
    init_digest: str | None,
    force: bool,
    version: int = CheckpointRef.version,
) -> CheckpointRef:
    """Cohort -> checkpoint; resumes from the last saved state of an interrupted run.

    The digest of the initial checkpoint is an argument for the cache, which would otherwise use its path.
    """
    from pipeline.train import run_train

    with _private_failures():
        return run_train(cohort, out, settings, seed=seed, force=force)


@task(name="sample", **_REFERENCE)
def sample_task(
    checkpoint: CheckpointRef,
    *,
    out: Path,
    settings: SampleSettings,
    seed: int,
    force: bool,
    version: int = CandidatesRef.version,
) -> CandidatesRef:
    """Checkpoint -> candidates."""
    from pipeline.sample import run_sample

    with _private_failures():
        return run_sample(checkpoint, out, settings, seed=seed, force=force)


@task(name="audit", **_REFERENCE)
def audit_task(
    candidates: CandidatesRef,
    *,
    cohort: CohortRef,
    checkpoint: CheckpointRef,
    out: Path,
    settings: AuditSettings,
    seed: int,
    earlier_digests: list[str],
    force: bool,
    version: int = AuditRef.version,
) -> AuditRef:
    """Candidates and cohort -> audit with its verdict.

    The digests of earlier releases are arguments for the cache, which would otherwise use their paths.
    """
    from pipeline.privacy import run_audit

    with _private_failures():
        return run_audit(candidates, cohort, out, settings, seed=seed, checkpoint=checkpoint, force=force)


@task(name="release", **_REFERENCE, **_RETRIED)
def release_task(
    candidates: CandidatesRef,
    *,
    audit: AuditRef,
    out: Path,
    settings: ReleaseSettings,
    seed: int,
    provenance: dict[str, Any],
    force: bool,
    version: int = ReleaseRef.version,
) -> ReleaseRef:
    """Accepted candidates -> release, if verdict and policy allow it."""
    from pipeline.release import run_release

    with _private_failures():
        return run_release(candidates, audit, out, settings, seed=seed, force=force, provenance=provenance)


@task(name="evaluate", **_REFERENCE)
def evaluate_task(
    release: ReleaseRef,
    *,
    cohort: CohortRef,
    out: Path,
    settings: EvaluateSettings,
    seed: int,
    external: list[CohortRef],
    force: bool,
    version: int = EvaluationRef.version,
) -> EvaluationRef:
    """Release, cohort, and cohorts of other sites -> evaluation."""
    from pipeline.evaluate import run_evaluate

    with _private_failures():
        return run_evaluate(release, cohort, out, settings, seed=seed, force=force, external=external)


@task(name="site", **_REFERENCE)
def site_task(cohort: CohortRef, experiment: Experiment, *, out: Path) -> CohortRef:
    """Whole cohort -> the scans that an experiment's generator sees, as a cohort."""
    from pipeline.artifacts.cohort import open_cohort
    from pipeline.evaluate.study.plan import site_of
    from pipeline.evaluate.study.sites import write_site

    with _private_failures():
        whole = open_cohort(cohort)
        return write_site(whole, site_of(whole, experiment, generator=True), out)


@task(name="study cell", **_REFERENCE)
def study_cell_task(
    cohort: CohortRef,
    experiment: Experiment,
    *,
    out: Path,
    settings: EvaluateSettings,
    seed: int,
    force: bool = False,
    candidates: CandidatesRef | None = None,
    audit: AuditRef | None = None,
    release: ReleaseRef | None = None,
    version: int = CellRef.version,
) -> CellRef:
    """Site and synthetic images -> scores of all arms."""
    from pipeline.artifacts.cohort import open_cohort
    from pipeline.evaluate.classifiers import classifier_of
    from pipeline.evaluate.study.cell import accepted_pool, origin_of, released_pool, run_cell, start_of
    from pipeline.evaluate.study.plan import shortfall, site_of
    from pipeline.evaluate.truth import Question

    with _private_failures():
        whole = open_cohort(cohort)
        site = site_of(whole, experiment)
        notes = shortfall(whole, experiment, site)
        if release is not None:
            pool, requested = released_pool(release, whole)
            source, gate = release.digest, release.verdict
            notes.append(origin_of(release.path, whole))
        else:
            assert candidates is not None and audit is not None
            pool, requested = accepted_pool(candidates, audit, whole)
            source, gate = audit.digest, audit.verdict
            notes += start_of(audit.path, whole)
        return run_cell(
            whole,
            site,
            pool,
            out,
            settings,
            requested=requested,
            force=force,
            seed=seed,
            classifier=classifier_of(settings, Question.of(whole), out),
            source=source,
            gate=gate.value,
            notes=tuple(notes),
        )
