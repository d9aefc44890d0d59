"""The sample stage: draws shard after shard, keeps finished ones, writes the candidate table last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.drawing import candidate_table, draw_shards, require_known_class, require_same_checkpoint
from pipeline.errors import UsageError
from pipeline.records import CandidatesRef, CheckpointRef
from pipeline.sample.settings import SampleSettings
from pipeline.stage import open_stage

if TYPE_CHECKING:
    from models.denoiser import Denoiser
    from pipeline.generator import CheckpointInfo
    from pipeline.sample.draw import Candidate


def run_sample(
    checkpoint: CheckpointRef,
    out: Path,
    settings: SampleSettings,
    *,
    seed: int,
    classes: Sequence[str] | None = None,
    cohort_digest: str | None = None,
    force: bool = False,
) -> CandidatesRef:
    """Draw candidates from a checkpoint.

    A finished output of the same inputs is returned as it is; of an unfinished one, whole shards are kept.
    The bytes do not depend on how often the stage was killed, or where.

    Args:
        checkpoint: the checkpoint to draw from.
        out: the candidates directory (private).
        settings: sample settings.
        seed: run seed; with class and index it decides each candidate's own seed.
        classes: names of the classes to draw; None draws all. A class gets the same candidates either way.
        cohort_digest: digest of the cohort the checkpoint must come from; None accepts any.
        force: replace an output of other inputs.

    Returns:
        The candidates' reference, with counts `candidates`, `classes` and `per_class` (the number asked for,
        which the audit trims to).

    Raises:
        UsageError: a class is unknown or named twice, or `out` holds something else.
        DataError: the checkpoint is unreadable, tampered with, or of another cohort.
        StorageError: the disk is full or cannot be written.
    """
    inputs = {"checkpoint": checkpoint.digest}
    if classes is not None:
        inputs["classes"] = ",".join(classes)
    with open_stage(CandidatesRef, out, inputs=inputs, settings=settings, seed=seed, force=force) as folder:
        if folder.finished is not None:
            return folder.finished
        # Torch and MONAI take seconds to import; finished candidates are returned without them.
        from models.allocator import held_memory
        from pipeline.generator import load_denoiser
        from pipeline.sample.draw import list_candidates

        denoiser, info = load_denoiser(checkpoint.path, cohort_digest)
        require_same_checkpoint(checkpoint)
        labels = _chosen_labels(info, classes)
        candidates = list_candidates(labels, settings.candidates_per_class, seed)
        with held_memory():
            files = _draw_shards(folder.path, denoiser, candidates, settings, bit_depth=info.bit_depth)
        files.append(_write_table(folder.path, candidates, settings, info, checkpoint.digest))
        counts = {"candidates": len(candidates), "classes": len(labels), "per_class": settings.per_class}
        return folder.finish(files, counts)


def _draw_shards(
    folder: Path,
    denoiser: Denoiser,
    candidates: Sequence[Candidate],
    settings: SampleSettings,
    *,
    bit_depth: int,
) -> list[str]:
    from pipeline.sample.draw import draw_candidates

    return draw_shards(
        folder,
        lambda first, end: draw_candidates(denoiser, candidates[first:end], settings, bit_depth=bit_depth),
        len(candidates),
        rows_per_shard=settings.rows_per_shard,
        batch_size=settings.batch_size,
        image_size=denoiser.spec.image_size,
        bit_depth=bit_depth,
        stage="sample",
    )


def _write_table(
    folder: Path,
    candidates: Sequence[Candidate],
    settings: SampleSettings,
    info: CheckpointInfo,
    checkpoint_digest: str,
) -> str:
    from pipeline.candidates import write_candidate_table
    from pipeline.sample.draw import resolved_steps

    table = candidate_table(
        [info.classes[candidate.label] for candidate in candidates],
        [candidate.label for candidate in candidates],
        [candidate.index for candidate in candidates],
        [candidate.seed for candidate in candidates],
        sampler=settings.sampler,
        num_steps=resolved_steps(settings),
        guidance_scale=settings.guidance_scale,
        checkpoint_digest=checkpoint_digest,
    )
    return write_candidate_table(folder, table)


def _chosen_labels(info: CheckpointInfo, classes: Sequence[str] | None) -> list[int]:
    if classes is None:
        return list(range(len(info.classes)))
    if not classes or len(set(classes)) != len(classes):
        raise UsageError(
            "classes must be named once each, and at least one",
            field="--class",
            value=list(classes),
            remedy=f"Choose from {list(info.classes)}.",
        )
    return [require_known_class(name, info.classes, field="--class") for name in classes]
