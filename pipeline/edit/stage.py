"""The edit stage: edits shard after shard, keeps finished ones, writes the tables last."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts.candidate_shards import (
    Shards,
    candidate_table,
    draw_shards,
    require_known_class,
    require_same_checkpoint,
)
from pipeline.artifacts.candidates import EDITED_FROM, count_from_scans, write_candidate_table
from pipeline.artifacts.checkpoint import CheckpointInfo, read_checkpoint_info, require_sorted_classes
from pipeline.config import Settings
from pipeline.edit.masks import Mask, read_mask
from pipeline.edit.pairs import write_edits, write_pairs
from pipeline.edit.settings import EditSettings
from pipeline.edit.sources import Sources, open_sources
from pipeline.errors import DataError, UsageError
from pipeline.records import CandidatesRef, CheckpointRef
from pipeline.stage import open_stage
from pipeline.storage import digest_of


class EditedSet(Settings):
    """What decides an edited set besides its inputs; the mask stands among those by its digest.

    Attributes:
        edit: the settings.
        per_class: edits that the audit is to keep.
    """

    edit: EditSettings
    per_class: int


@dataclass(frozen=True)
class EditPlan:
    """An edit that is ready to be carried out.

    Attributes:
        info: the checkpoint's description.
        sources: what is edited; label: the class it is to show; mask: where.
        inputs, settings: what decides the output.
    """

    info: CheckpointInfo
    sources: Sources
    label: int
    mask: Mask
    inputs: dict[str, str]
    settings: EditedSet


def plan_edit(checkpoint: CheckpointRef, source: Path, settings: EditSettings, *, seed: int) -> EditPlan:
    """Check what an edit is asked to do, and choose its sources. Nothing is written.

    Raises:
        UsageError: no class to edit to, a class that is unknown, or no source of it.
        DataError: sources or mask cannot be used, or the checkpoint does not make images but latents.
    """
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
            "the checkpoint denoises latents, and a region of an image is none of those",
            field="checkpoint",
            remedy="Edit with a checkpoint that was trained on pixels.",
        )
    mask = read_mask(settings.mask, info.image_size, feather=settings.feather)
    sources = open_sources(source, info, checkpoint.digest, settings, seed=seed)
    edited = EditedSet(
        edit=settings.model_copy(update={"mask": None}), per_class=settings.num_wanted(len(sources))
    )
    inputs = {
        "checkpoint": checkpoint.digest,
        sources.kind: sources.digest,
        "mask": _mask_digest(settings, mask),
    }
    return EditPlan(info, sources, label, mask, inputs, edited)


def run_edit(
    checkpoint: CheckpointRef,
    source: Path,
    out: Path,
    settings: EditSettings,
    *,
    seed: int,
    force: bool = False,
) -> CandidatesRef:
    """Edit scans or candidates into a candidate set, which is audited like any other.

    Edits of real scans are for private analysis: they may hold real pixels, and each derives from one
    patient. They are marked in `candidates.parquet`, within the content digest, and `release` refuses a set
    that holds one, under every policy. Edits of synthetic candidates are released like candidates.

    `edits.parquet` (private) says what each was edited from, `pairs.png` (private) shows a few.

    Args:
        checkpoint: the checkpoint that edits.
        source: a cohort, or candidates of this checkpoint.
        out: the candidates directory (private).
        settings: edit settings.
        seed: run seed; with class and index it decides the seed of each edit.
        force: replace an output of other inputs.

    Returns:
        The candidates' reference, with counts `candidates`, `per_class` (what the audit trims to) and
        `from_scans` (those that are never released).

    Raises:
        UsageError: see `plan_edit`; or `out` holds something else.
        DataError: checkpoint, sources or mask are unreadable, changed, or do not fit each other.
        StorageError: the disk is full or cannot be written.
    """
    plan = plan_edit(checkpoint, source, settings, seed=seed)
    with open_stage(
        CandidatesRef, out, inputs=plan.inputs, settings=plan.settings, seed=seed, force=force
    ) as folder:
        if folder.finished is not None:
            return folder.finished
        return folder.finish(*_carry_out(folder.path, checkpoint, plan, settings, seed))


def _carry_out(
    folder: Path, checkpoint: CheckpointRef, plan: EditPlan, settings: EditSettings, seed: int
) -> tuple[list[str], dict[str, int]]:
    """Edit, write every file, and return their names and the counts."""
    from models.noise import stream_seed
    from pipeline.artifacts.checkpoint import load_denoiser
    from pipeline.edit.draw import edit_batch, schedule_of

    denoiser, info = load_denoiser(checkpoint.path)
    require_same_checkpoint(checkpoint)
    count, name = len(plan.sources), info.classes[plan.label]
    # Streams of their own: noise that drew a candidate would not be independent of it when that is edited.
    seeds = [stream_seed(seed, "edit", plan.label, index) for index in range(count)]
    shards = Shards(
        count,
        rows_per_shard=settings.rows_per_shard,
        batch_size=settings.batch_size,
        image_size=info.image_size,
        bit_depth=info.bit_depth,
    )
    files = draw_shards(
        folder,
        lambda first, end: edit_batch(
            denoiser,
            plan.sources.pixels(first, end),
            seeds[first:end],
            settings,
            mask=plan.mask,
            label=plan.label,
        ),
        shards,
        shards.missing(folder),
        stage="edit",
    )
    table = candidate_table(
        [name] * count,
        [plan.label] * count,
        list(range(count)),
        seeds,
        # A seed alone does not make an edit again, and whoever reads the table sees that by the name.
        sampler=f"{'sdedit' if settings.mask is None else 'inpaint'}-{settings.resolved_sampler}",
        num_steps=len(schedule_of(settings)) - 1,
        guidance_scale=settings.guidance_scale,
        checkpoint_digest=checkpoint.digest,
    )
    table[EDITED_FROM] = plan.sources.edited_from
    files.append(write_candidate_table(folder, table))
    strength, mask_digest = settings.resolved_strength, plan.inputs["mask"]
    files.append(write_edits(folder, table, plan.sources, strength=strength, mask_digest=mask_digest))
    write_pairs(folder, plan.sources)
    counts = {
        "candidates": count,
        "classes": 1,
        "per_class": plan.settings.per_class,
        "from_scans": count_from_scans(table),
    }
    return files, counts


def _mask_digest(settings: EditSettings, mask: Mask) -> str:
    """Return the sha256 of a mask's values, empty for the whole image."""
    return "" if settings.mask is None else digest_of([mask.shape, mask.tobytes().hex()])
