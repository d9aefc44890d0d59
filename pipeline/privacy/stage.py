"""One audit from folders to folder: verify the inputs, measure, judge, write."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from models.devices import computing, default_device
from models.optim.allocator import held_memory
from models.privacy.pca import principal_components
from pipeline.artifacts.checkpoint import CheckpointInfo, read_checkpoint_info
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.pixels import StoredPixels
from pipeline.artifacts.privacy_report import REPORT_NAME, AttackRisk
from pipeline.distributed.broadcast import (
    hear,
    hear_reference,
    require_same_command,
    tell_reference,
    tell_to_work,
)
from pipeline.distributed.cpu_threads import threads, threads_here
from pipeline.distributed.process_group import Ranks, join_ranks
from pipeline.errors import DataError
from pipeline.privacy.audited_set import AuditedSet, open_audited
from pipeline.privacy.earlier_inputs import earlier_input
from pipeline.privacy.earlier_releases import EarlierReleases, open_earlier
from pipeline.privacy.gate.attack_risk import Released, attack_risks, drawn_targets
from pipeline.privacy.gate.gate import Measured, measure
from pipeline.privacy.membership.run import Membership, measure_membership
from pipeline.privacy.output.page import write_page
from pipeline.privacy.output.report import build_report, final_reasons
from pipeline.privacy.output.table import write_audit_table
from pipeline.privacy.partial_results import Halfway
from pipeline.privacy.search.embedding_cache import TrainedEmbedding, cohort_embedding
from pipeline.privacy.search.hashes import pixel_digests
from pipeline.privacy.search.references import Bools, Ints, References, load_references, search_images
from pipeline.privacy.settings import AuditSettings
from pipeline.records import AuditRef, CheckpointRef, CohortRef
from pipeline.stage import StageFolder, open_stage, verify_reference
from pipeline.storage import write_json

logger = logging.getLogger(__name__)

BLOCK = 4096


def audit(
    candidates: Path,
    cohort: Path,
    out: Path,
    settings: AuditSettings,
    *,
    seed: int,
    checkpoint: Path | None,
    force: bool,
) -> AuditRef:
    """Carry out `pipeline.privacy.run_audit`."""
    with (
        held_memory(),
        join_ranks() as ranks,
        threads(settings.num_threads or threads_here(ranks.place)),
        # Each process of a job has its device by now.
        computing(default_device()),
    ):
        task = _open(candidates, cohort, checkpoint, settings, seed)
        stable = settings.content_settings()
        require_same_command(ranks, [AuditRef.stage, task.inputs, stable.digest(), seed])
        if not ranks.is_main:
            finished, folder = hear(ranks, AuditRef)
            if finished is not None:
                return finished
            _measure(task, Halfway(Path(folder), ranks), ranks)
            return hear_reference(ranks, AuditRef)
        with open_stage(AuditRef, out, inputs=task.inputs, settings=stable, seed=seed, force=force) as stage:
            reference = stage.finished
            if reference is not None:
                logger.info("reusing the audit: verdict %s", reference.verdict)
            else:
                tell_to_work(ranks, str(stage.path))
                halfway = Halfway(stage.path, ranks)
                found = _measure(task, halfway, ranks)
                reference = _write(stage, task, found, halfway)
            tell_reference(ranks, reference)
            return reference


@dataclass(frozen=True)
class _Task:
    """What is audited, verified; every process of a job opens it by itself.

    Attributes:
        audited: the candidates; cohort: whose train and holdout they are held against.
        checkpoint: the attacked checkpoint; info: what it says of itself.
        inputs: digests of all of them.
        earlier: releases that are counted in.
        settings: of the audit.
        seed: run seed.
    """

    audited: AuditedSet
    cohort: Cohort
    checkpoint: Path | None
    info: CheckpointInfo | None
    inputs: dict[str, str]
    earlier: EarlierReleases
    settings: AuditSettings
    seed: int


@dataclass(frozen=True)
class _Findings:
    """What was measured.

    Attributes:
        references: train and holdout.
        measured: candidate by candidate and of the set.
        accepted: (n,) what may be released; reasons: (n,) why not, else empty.
        membership: what tells who was in train; risks: of the attacks on single scans.
        shortened: in words, what the time that was given did not suffice for.
    """

    references: References
    measured: Measured
    accepted: Bools
    reasons: list[str]
    membership: Membership
    risks: tuple[AttackRisk, ...]
    shortened: tuple[str, ...]


def _open(
    candidates: Path, cohort: Path, checkpoint: Path | None, settings: AuditSettings, seed: int
) -> _Task:
    # The cohort is re-hashed: against altered train pixels no copy would be found.
    verify_reference(CohortRef, cohort)
    opened = Cohort(cohort)
    audited = open_audited(candidates, opened)
    inputs = {"candidates": audited.digest, "cohort": opened.digest, **earlier_input(settings)}
    info: CheckpointInfo | None = None
    if checkpoint is not None:
        inputs["checkpoint"], info = _check_checkpoint(checkpoint, opened, audited)
    earlier = open_earlier(opened, settings)
    return _Task(audited, opened, checkpoint, info, inputs, earlier, settings, seed)


def _measure(task: _Task, halfway: Halfway, ranks: Ranks) -> _Findings:
    """Measure everything; the processes of a job share what takes long, and return when all are done."""
    settings, seed, audited, cohort = task.settings, task.seed, task.audited, task.cohort
    folds, planted = (np.random.default_rng([seed, stream]) for stream in (1, 2))
    references = load_references(cohort, settings, folds)
    embedding = _embedding(cohort, references, settings, ranks)
    labels = audited.table["label"].to_numpy().astype(np.int64)
    rows = np.arange(len(labels))
    images = search_images(audited.take, rows, settings.search_size)
    measured = measure(
        images=images,
        labels=labels,
        classes={name: cohort.info.classes.index(name) for name in audited.asked},
        digests=_digests(audited.take, rows),
        references=references,
        train_digests=set(_digests(cohort.take, cohort.rows("train"))),
        network=embedding.network,
        settings=settings,
        rng=planted,
        halfway=halfway,
    )
    accepted, reasons = final_reasons(audited, measured)
    # Nodes may round differently: what process 0 accepts is what all attack.
    accepted = np.array(ranks.same(accepted.tolist()), dtype=np.bool_)
    released = Released(images[torch.from_numpy(accepted)], labels[accepted])
    if accepted.any():
        released = Released(
            torch.cat([released.images, task.earlier.images]),
            np.concatenate([released.labels, task.earlier.labels]),
        )
    # What an outsider compares by must not know the sides, as the embedding of train scans does.
    components = principal_components(references.images, settings.component_noise)
    membership = measure_membership(
        cohort,
        references,
        released.images,
        components,
        settings,
        seed=seed,
        checkpoint=task.checkpoint,
        halfway=halfway,
    )
    risks: tuple[AttackRisk, ...] = ()
    if accepted.any():
        draw = np.random.default_rng([seed, 9])
        risks = attack_risks(drawn_targets(references, draw), released, components, settings, draw)
    ranks.wait_for_all()
    cut = (_embedding_cut_short(embedding, settings), membership.shortened)
    shortened = tuple(words for words in cut if words)
    return _Findings(references, measured, accepted, reasons, membership, risks, shortened)


def _embedding(
    cohort: Cohort, references: References, settings: AuditSettings, ranks: Ranks
) -> TrainedEmbedding:
    """Return the cohort's embedding, which process 0 trains where it is not there yet."""
    if ranks.is_main:
        embedding = cohort_embedding(cohort, references, settings)
        ranks.wait_for_all()
        return embedding
    ranks.wait_for_all()
    return cohort_embedding(cohort, references, settings)


def _embedding_cut_short(embedding: TrainedEmbedding, settings: AuditSettings) -> str:
    if embedding.num_steps >= settings.embedding_steps or settings.max_minutes is None:
        return ""
    return (
        f"the copy embedding was trained for {embedding.num_steps} of {settings.embedding_steps} steps, for "
        f"which audit.max_minutes={settings.max_minutes:g} gave time; the recall of planted copies is that "
        "of this embedding"
    )


def _write(stage: StageFolder[AuditRef], task: _Task, found: _Findings, halfway: Halfway) -> AuditRef:
    """Write report, table and page, remove what was kept halfway; return the finished reference."""
    audited, measured = task.audited, found.measured
    report = build_report(
        audited,
        task.cohort,
        found.references,
        measured=measured,
        membership=found.membership,
        risks=found.risks,
        shortened=found.shortened,
        guarantee=None if task.info is None else task.info.differential_privacy,
        earlier=task.earlier.described,
        settings=task.settings,
    )
    table = write_audit_table(
        stage.path,
        audited=audited,
        cohort=task.cohort,
        references=found.references,
        measured=measured,
        accepted=found.accepted,
        reasons=found.reasons,
    )
    write_page(
        stage.path,
        report=report,
        audited=audited,
        cohort=task.cohort,
        references=found.references,
        measured=measured,
        accepted=found.accepted,
    )
    write_json(stage.path / REPORT_NAME, report.model_dump(mode="json"), private=True)
    halfway.clear()
    counts = {
        "candidates": len(measured.reasons),
        "accepted": int(found.accepted.sum()),
        "rejected": sum(bool(reason) for reason in measured.reasons),
    }
    logger.info("gate verdict %s: %s", report.verdict, "; ".join(report.reasons))
    return stage.finish([REPORT_NAME, table], counts, verdict=report.verdict)


def _check_checkpoint(checkpoint: Path, cohort: Cohort, audited: AuditedSet) -> tuple[str, CheckpointInfo]:
    reference = verify_reference(CheckpointRef, checkpoint)
    info = read_checkpoint_info(checkpoint)
    if info.cohort_digest != cohort.digest:
        raise DataError(
            "a checkpoint of another cohort",
            field="checkpoint",
            value=reference.digest[:12],
            remedy="Name the cohort that this checkpoint was trained on.",
        )
    if not audited.foreign and audited.checkpoint_digest != reference.digest:
        raise DataError(
            "the candidates were made by another checkpoint",
            field="checkpoint",
            value=reference.digest[:12],
            remedy="Name the checkpoint that made the candidates.",
        )
    return reference.digest, info


def _digests(take: Callable[[Ints], StoredPixels], rows: Ints) -> list[bytes]:
    found: list[bytes] = []
    for first in range(0, len(rows), BLOCK):
        found += pixel_digests(take(rows[first : first + BLOCK]))
    return found
