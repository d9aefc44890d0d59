"""One audit from folders to folder: verify the inputs, measure, judge, write."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from pipeline.cohort import Cohort
from pipeline.errors import DataError
from pipeline.generator import CheckpointInfo, read_checkpoint_info
from pipeline.pixels import StoredPixels
from pipeline.privacy.attack_risk import Released, attack_risks, drawn_targets
from pipeline.privacy.embedding_cache import cohort_embedding
from pipeline.privacy.foreign import AuditedSet, open_audited
from pipeline.privacy.gate import measure
from pipeline.privacy.halfway import Halfway
from pipeline.privacy.hashes import pixel_digests
from pipeline.privacy.membership.run import measure_membership
from pipeline.privacy.page import write_page
from pipeline.privacy.references import Ints, load_references, search_images
from pipeline.privacy.report import build_report, final_reasons
from pipeline.privacy.settings import AuditSettings
from pipeline.privacy.table import write_audit_table
from pipeline.privacy_report import REPORT_NAME, AttackRisk
from pipeline.records import AuditRef, CheckpointRef, CohortRef
from pipeline.stage import open_stage, verify_reference
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
    # The cohort is re-hashed: against altered train pixels no copy would be found.
    verify_reference(CohortRef, cohort)
    opened = Cohort(cohort)
    audited = open_audited(candidates, opened)
    inputs = {"candidates": audited.digest, "cohort": opened.digest}
    info: CheckpointInfo | None = None
    if checkpoint is not None:
        inputs["checkpoint"], info = _check_checkpoint(checkpoint, opened, audited)
    with (
        open_stage(AuditRef, out, inputs=inputs, settings=settings, seed=seed, force=force) as stage,
        _threads(settings.num_threads),
    ):
        if stage.finished is not None:
            logger.info("reusing the audit: verdict %s", stage.finished.verdict)
            return stage.finished
        halfway = Halfway(stage.path)
        folds, planted = (np.random.default_rng([seed, stream]) for stream in (1, 2))
        references = load_references(opened, settings, folds)
        network = cohort_embedding(opened, references, settings)
        labels = audited.table["label"].to_numpy().astype(np.int64)
        rows = np.arange(len(labels))
        images = search_images(audited.take, rows, settings.search_size)
        measured = measure(
            images=images,
            labels=labels,
            classes={name: opened.info.classes.index(name) for name in audited.asked},
            digests=_digests(audited.take, rows),
            references=references,
            train_digests=set(_digests(opened.take, opened.rows("train"))),
            network=network,
            settings=settings,
            rng=planted,
            halfway=halfway,
        )
        accepted, reasons = final_reasons(audited, measured)
        membership = measure_membership(
            opened,
            references,
            images[torch.from_numpy(accepted)],
            network,
            settings,
            seed=seed,
            checkpoint=checkpoint,
            halfway=halfway,
        )
        risks: tuple[AttackRisk, ...] = ()
        if accepted.any():
            draw = np.random.default_rng([seed, 9])
            released = Released(images[torch.from_numpy(accepted)], labels[accepted])
            risks = attack_risks(drawn_targets(references, draw), released, network, settings, draw)
        report = build_report(
            audited,
            opened,
            references,
            measured=measured,
            membership=membership,
            risks=risks,
            guarantee=None if info is None else info.differential_privacy,
            settings=settings,
        )
        table = write_audit_table(
            stage.path,
            audited=audited,
            cohort=opened,
            references=references,
            measured=measured,
            accepted=accepted,
            reasons=reasons,
        )
        write_page(
            stage.path,
            report=report,
            audited=audited,
            cohort=opened,
            references=references,
            measured=measured,
            accepted=accepted,
        )
        write_json(stage.path / REPORT_NAME, report.model_dump(mode="json"), private=True)
        halfway.clear()
        counts = {
            "candidates": len(labels),
            "accepted": int(accepted.sum()),
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


@contextlib.contextmanager
def _threads(number: int) -> Iterator[None]:
    """Use `number` threads of torch (0: leave them), and give the earlier number back afterwards."""
    earlier = torch.get_num_threads()
    if number:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(earlier)
