"""The edit stage: edits shard by shard, keeps finished shards, writes the tables last."""

from __future__ import annotations

from pathlib import Path

from pipeline.artifacts.candidate_shards import Shards, candidate_table, draw_shards, require_same_checkpoint
from pipeline.artifacts.candidates import EDITED_FROM, count_from_scans, write_candidate_table
from pipeline.edit.pairs import write_edits, write_pairs
from pipeline.edit.plan import EditPlan, plan_edit
from pipeline.edit.settings import EditSettings
from pipeline.records import CandidatesRef, CheckpointRef, CohortRef
from pipeline.stage import reference_of


def run_edit(
    checkpoint: Path | CheckpointRef,
    source: Path | CohortRef | CandidatesRef,
    out: Path,
    settings: EditSettings,
    *,
    seed: int,
    force: bool = False,
) -> CandidatesRef:
    """Edit scans or candidates; the result is a candidate set that is audited like any other.

    Edits of real scans are for private analysis: they may contain real pixels, and each derives from one
    patient. They are marked in `candidates.parquet`, within the content digest, and `release` refuses a set
    that contains one, under every policy. Edits of synthetic candidates are released like candidates.

    `edits.parquet` (private) names the source of each edit; `pairs.png` (private) shows a few pairs.

    Args:
        checkpoint: the checkpoint that makes the edits.
        source: a cohort, or candidates of this checkpoint.
        out: the candidates directory (private).
        settings: edit settings.
        seed: run seed; with class and index it determines the seed of each edit.
        force: replace an output of other inputs.

    Returns:
        The candidates' reference, with counts `candidates`, `per_class` (the number to which the audit trims)
        and `from_scans` (edits that are never released).

    Raises:
        UsageError: see `plan_edit`; or `out` holds something else.
        DataError: checkpoint, sources or mask are unreadable, changed, or do not match.
        StorageError: the disk is full or cannot be written.
    """
    checkpoint = reference_of(CheckpointRef, checkpoint)
    plan = plan_edit(checkpoint, source, settings, seed=seed)
    with plan.wanted.open(out, force=force) as folder:
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
    # Separate streams: the noise that generated a candidate is not independent of it when it is edited.
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
        # A seed alone does not reproduce an edit; the name of the sampler shows that the row is an edit.
        sampler=f"{'sdedit' if settings.mask is None else 'inpaint'}-{settings.resolved_sampler}",
        num_steps=len(schedule_of(settings, denoiser.spec.noise_scale)) - 1,
        guidance_scale=settings.guidance_scale,
        checkpoint_digest=checkpoint.digest,
    )
    table[EDITED_FROM] = plan.sources.edited_from
    files.append(write_candidate_table(folder, table))
    strength, mask_digest = settings.resolved_strength, plan.mask_digest
    files.append(write_edits(folder, table, plan.sources, strength=strength, mask_digest=mask_digest))
    write_pairs(folder, plan.sources)
    counts = {
        "candidates": count,
        "classes": 1,
        "per_class": plan.per_class,
        "from_scans": count_from_scans(table),
    }
    return files, counts
