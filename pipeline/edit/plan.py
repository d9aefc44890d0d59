"""Plan and cost estimate of an edit, with its sources chosen and verified."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts.candidate_shards import require_known_class
from pipeline.artifacts.checkpoint import CheckpointInfo, read_checkpoint_info, require_sorted_classes
from pipeline.config import Settings
from pipeline.cost.estimate import (
    MEBIBYTE,
    TABLE_BYTES_A_ROW,
    Cost,
    Foreseen,
    StagePlan,
    outlook_of,
)
from pipeline.cost.network import denoise_pace
from pipeline.edit.masks import Mask, read_mask
from pipeline.edit.settings import EditSettings
from pipeline.edit.sources import Sources, open_sources
from pipeline.errors import DataError, UsageError
from pipeline.records import CandidatesRef, CheckpointRef, CohortRef
from pipeline.stage import StageInputs, folder_of, reference_of
from pipeline.storage import digest_of


class EditedSet(Settings):
    """Settings that determine an edited set. The mask is among the inputs, as its digest.

    Attributes:
        edit: settings of the edit.
        per_class: number of edits requested from the audit.
    """

    edit: EditSettings
    per_class: int


@dataclass(frozen=True, kw_only=True)
class EditPlan(StagePlan[CandidatesRef]):
    """Plan of an edit that is ready to run.

    Attributes:
        info: description of the checkpoint.
        sources: images to edit.
        label: index of the target class.
        mask: region to edit.
        mask_digest: sha256 of the mask's values; empty for the whole image.
        per_class: number of edits requested from the audit.
    """

    info: CheckpointInfo
    sources: Sources
    label: int
    mask: Mask
    mask_digest: str
    per_class: int


def plan_edit(
    checkpoint: Path | CheckpointRef,
    source: Path | CohortRef | CandidatesRef,
    settings: EditSettings,
    *,
    seed: int,
) -> EditPlan:
    """Check the arguments of an edit and choose its sources. Nothing is written.

    Raises:
        UsageError: the target class is missing or unknown, or no source can be edited to it.
        DataError: sources or mask cannot be used, or the checkpoint was trained on latents.
    """
    checkpoint = reference_of(CheckpointRef, checkpoint)
    info = read_checkpoint_info(checkpoint.path)
    require_sorted_classes(info)
    if settings.to_class is None:
        raise UsageError("no class to edit to", field="--to", remedy=f"Choose from {list(info.classes)}.")
    label = require_known_class(settings.to_class, info.classes, field="--to")
    if (
        tuple(info.network.get("image_size", ())) != info.image_size
        or info.network.get("in_channels", 1) != 1
    ):
        raise DataError(
            "the checkpoint denoises latents, in which a region of an image cannot be edited",
            field="checkpoint",
            remedy="Edit with a checkpoint that was trained on pixels.",
        )
    mask = read_mask(settings.mask, info.image_size, feather=settings.feather)
    mask_digest = "" if settings.mask is None else digest_of([mask.shape, mask.tobytes().hex()])
    sources = open_sources(folder_of(source), info, checkpoint.digest, settings, seed=seed)
    count, per_class = len(sources), settings.num_wanted(len(sources))
    edited = EditedSet(edit=settings.model_copy(update={"mask": None}), per_class=per_class)
    inputs = {"checkpoint": checkpoint.digest, sources.kind: sources.digest, "mask": mask_digest}
    known = outlook_of(checkpoint)
    return EditPlan(
        wanted=StageInputs(CandidatesRef, inputs, edited, seed),
        estimate=lambda: estimate_edit(settings, known, count),
        foresee=lambda: Foreseen(known.work, known.network, count, per_class),
        info=info,
        sources=sources,
        label=label,
        mask=mask,
        mask_digest=mask_digest,
        per_class=per_class,
    )


def estimate_edit(settings: EditSettings, known: Foreseen, count: int) -> Cost:
    """Estimate editing `count` images: batches times denoise calls times the time of one."""
    from pipeline.edit.draw import num_denoise_calls

    assert known.network is not None
    passes = num_denoise_calls(settings, known.network.spec.noise_scale)
    calls = passes * (2 if settings.guidance_scale != 1.0 else 1)
    pace = denoise_pace(known.network, settings.batch_size)
    return Cost.here(
        -(-count // settings.batch_size) * calls * pace.seconds + 1.0,
        disk_bytes=count * (known.work.image_bytes + 2 * TABLE_BYTES_A_ROW) + MEBIBYTE // 2,
        device_bytes=pace.device_bytes,
    )
