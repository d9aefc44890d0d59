"""The audit stage: verify the inputs, measure, judge, write."""

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
from pipeline.arrays import Bools, Ints
from pipeline.artifacts.checkpoint import CheckpointInfo, read_checkpoint_info
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.pixels import StoredPixels
from pipeline.artifacts.privacy_report import REPORT_NAME, AttackRisk
from pipeline.distributed.broadcast import (
    receive,
    receive_reference,
    require_same_command,
    send_reference,
    send_work,
)
from pipeline.distributed.cpu_threads import threads, threads_here
from pipeline.distributed.process_group import Ranks, join_ranks
from pipeline.errors import DataError
from pipeline.privacy.audited_set import AuditedSet, open_audited
from pipeline.privacy.earlier_releases import EarlierReleases, open_earlier
from pipeline.privacy.gate.attack_risk import Released, attack_risks, drawn_targets
from pipeline.privacy.gate.gate import Measured, measure
from pipeline.privacy.membership.run import Membership, measure_membership
from pipeline.privacy.output.page import write_page
from pipeline.privacy.output.report import build_report, final_reasons
from pipeline.privacy.output.table import write_audit_table
from pipeline.privacy.partial_results import Halfway
from pipeline.privacy.plan import audit_inputs
from pipeline.privacy.search.embedding_cache import TrainedEmbedding, cohort_embedding
from pipeline.privacy.search.hashes import pixel_digests
from pipeline.privacy.search.references import References, load_references, search_images
from pipeline.privacy.search.views import COMPONENT_NOISE
from pipeline.privacy.settings import AuditSettings
from pipeline.records import AuditRef, CandidatesRef, CheckpointRef, CohortRef
from pipeline.stage import StageFolder, StageInputs, folder_of, verify_reference
from pipeline.storage import write_json

logger = logging.getLogger(__name__)

BLOCK = 4096


def run_audit(
    candidates: Path | CandidatesRef,
    cohort: Path | CohortRef,
    out: Path,
    settings: AuditSettings,
    *,
    seed: int,
    checkpoint: Path | CheckpointRef | None = None,
    force: bool = False,
) -> AuditRef:
    """Audit a candidate set against the cohort its generator was trained on.

    Writes `privacy_report.json` (aggregates), `candidates.parquet` and `report.html` (both private) to `out`.

    Args:
        candidates: output of `sample`, or a folder of class-named sub-folders of PNG / JPEG images.
        cohort: output of `ingest`.
        out: the audit directory.
        settings: settings of the gate.
        seed: run seed; folds, the tuning half, planted copies and coin flips are drawn from it.
        checkpoint: checkpoint to attack by membership inference. It must have been trained on this cohort and
            have made these candidates.
        force: replace an audit of other inputs.

    Returns:
        The audit's reference with its verdict. An audit with verdict FAIL is a finished audit.

    Raises:
        DataError: candidates, cohort and checkpoint do not belong together.
        TamperedError: a content file was changed.
    """
    with (
        held_memory(),
        join_ranks() as ranks,
        threads(settings.num_threads or threads_here(ranks.place)),
        # Each process of a job has its device by now.
        computing(default_device()),
    ):
        task = _open(candidates, cohort, checkpoint, settings, seed)
        require_same_command(ranks, [task.wanted.described])
        if not ranks.is_main:
            finished, folder = receive(ranks, AuditRef)
            if finished is not None:
                return finished
            _measure(task, Halfway(Path(folder), ranks), ranks)
            return receive_reference(ranks, AuditRef)
        with task.wanted.open(out, force=force) as stage:
            reference = stage.finished
            if reference is not None:
                logger.info("reusing the audit: verdict %s", reference.verdict)
            else:
                send_work(ranks, str(stage.path))
                halfway = Halfway(stage.path, ranks)
                found = _measure(task, halfway, ranks)
                reference = _write(stage, task, found, halfway)
            send_reference(ranks, reference)
            return reference


@dataclass(frozen=True)
class _Task:
    """Verified inputs of the audit; every process of a job opens them by itself.

    Attributes:
        audited: the candidates.
        cohort: the cohort with whose train and holdout they are compared.
        checkpoint: the attacked checkpoint, None if none is attacked.
        info: description of the checkpoint.
        wanted: what decides the audit.
        earlier: earlier releases that are included.
        settings: settings of the audit.
        seed: run seed.
    """

    audited: AuditedSet
    cohort: Cohort
    checkpoint: Path | None
    info: CheckpointInfo | None
    wanted: StageInputs[AuditRef]
    earlier: EarlierReleases
    settings: AuditSettings
    seed: int


@dataclass(frozen=True)
class _Findings:
    """Measurements of the audit.

    Attributes:
        references: real scans of train and holdout.
        measured: measurements of each candidate and of the set.
        accepted: (n,) whether each candidate may be released.
        reasons: n reasons why not, empty if accepted.
        membership: results of membership inference.
        risks: results of linkability and attribute inference.
        shortened: in words, what the time limit cut short.
    """

    references: References
    measured: Measured
    accepted: Bools
    reasons: list[str]
    membership: Membership
    risks: tuple[AttackRisk, ...]
    shortened: tuple[str, ...]


def _open(
    candidates: Path | CandidatesRef,
    cohort: Path | CohortRef,
    checkpoint: Path | CheckpointRef | None,
    settings: AuditSettings,
    seed: int,
) -> _Task:
    # The cohort is hashed again: no copy would be found if the train pixels had been altered.
    verify_reference(CohortRef, cohort)
    opened = Cohort(folder_of(cohort))
    audited = open_audited(candidates, opened)
    wanted = audit_inputs(audited.digest, opened.digest, settings, seed=seed)
    attacked: CheckpointRef | None = None
    info: CheckpointInfo | None = None
    if checkpoint is not None:
        attacked, info = _check_checkpoint(checkpoint, opened, audited)
        wanted = wanted.reading(checkpoint=attacked.digest)
    earlier = open_earlier(opened, settings)
    path = None if attacked is None else attacked.path
    return _Task(audited, opened, path, info, wanted, earlier, settings, seed)


def _measure(task: _Task, halfway: Halfway, ranks: Ranks) -> _Findings:
    """Run all measurements; the processes of a job share the expensive ones and return when all are done."""
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
    # Nodes may round differently: all processes attack what process 0 accepts.
    accepted = np.array(ranks.broadcast(accepted.tolist()), dtype=np.bool_)
    released = Released(images[torch.from_numpy(accepted)], labels[accepted])
    if accepted.any():
        released = Released(
            torch.cat([released.images, task.earlier.images]),
            np.concatenate([released.labels, task.earlier.labels]),
        )
    # An outsider's features must not depend on the split, as the embedding of train scans does.
    components = principal_components(references.images, COMPONENT_NOISE)
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
    """Return the cohort's embedding; process 0 trains it if it does not exist yet."""
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
        f"the copy embedding was trained for {embedding.num_steps} of {settings.embedding_steps} steps "
        f"within audit.max_minutes={settings.max_minutes:g}; the recall of planted copies is that of this "
        "embedding"
    )


def _write(stage: StageFolder[AuditRef], task: _Task, found: _Findings, halfway: Halfway) -> AuditRef:
    """Write report, table and page, remove the partial results, and return the finished reference."""
    audited, measured = task.audited, found.measured
    report = build_report(
        audited,
        task.cohort,
        found.references,
        measured=measured,
        membership=found.membership,
        risks=found.risks,
        shortened=found.shortened,
        trained=task.info,
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


def _check_checkpoint(
    checkpoint: Path | CheckpointRef, cohort: Cohort, audited: AuditedSet
) -> tuple[CheckpointRef, CheckpointInfo]:
    reference = verify_reference(CheckpointRef, checkpoint)
    info = read_checkpoint_info(reference.path)
    if info.cohort_digest != cohort.digest:
        raise DataError(
            "the checkpoint was trained on another cohort",
            field="checkpoint",
            value=reference.digest[:12],
            remedy="Pass the cohort that this checkpoint was trained on.",
        )
    if not audited.foreign and audited.checkpoint_digest != reference.digest:
        raise DataError(
            "the candidates were made by another checkpoint",
            field="checkpoint",
            value=reference.digest[:12],
            remedy="Pass the checkpoint that made the candidates.",
        )
    return reference, info


def _digests(take: Callable[[Ints], StoredPixels], rows: Ints) -> list[bytes]:
    found: list[bytes] = []
    for first in range(0, len(rows), BLOCK):
        found += pixel_digests(take(rows[first : first + BLOCK]))
    return found
