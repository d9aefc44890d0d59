"""The sample stage: draws shard after shard, keeps finished ones, writes the candidate table last."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import DataError, UsageError
from pipeline.generator import read_checkpoint_info
from pipeline.pixels import StoredPixels, shard_name, stored_dtype, write_shard
from pipeline.progress import Progress, track
from pipeline.records import CandidatesRef, CheckpointRef
from pipeline.sample.guiding import check_guidance, make_guidance
from pipeline.sample.settings import SampleSettings
from pipeline.stage import open_stage

if TYPE_CHECKING:
    from models.denoiser import Denoiser
    from models.guidance import Guidance
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
        DataError: the checkpoint is unreadable, tampered with, of another cohort, or lacks the snapshots that
            the settings need.
        StorageError: the disk is full or cannot be written.
    """
    # Before the directory is opened: what is wrong leaves nothing behind that would need --force.
    check_guidance(read_checkpoint_info(checkpoint.path), settings)
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

        denoiser, info = load_denoiser(checkpoint.path, cohort_digest, ema_length=settings.ema_length)
        _require_same(checkpoint)
        guidance = make_guidance(checkpoint.path, info, denoiser, settings)
        labels = _chosen_labels(info, classes)
        candidates = list_candidates(labels, settings.candidates_per_class, seed)
        with held_memory():
            files = _draw_shards(
                folder.path, denoiser, candidates, settings, bit_depth=info.bit_depth, guidance=guidance
            )
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
    guidance: Guidance,
) -> list[str]:
    """Draw every shard that is not there yet and return the names of all."""
    size = settings.rows_per_shard
    shards = [candidates[first : first + size] for first in range(0, len(candidates), size)]
    height, width = denoiser.spec.image_size
    missing = [
        number
        for number, shard in enumerate(shards)
        if not _is_whole(folder / shard_name(number), (len(shard), 1, height, width), bit_depth)
    ]
    done = len(candidates) - sum(len(shards[number]) for number in missing)
    with track("sample", len(candidates), done=done, unit="candidates") as progress:
        for number in missing:
            pixels = _draw_shard(
                denoiser, shards[number], settings, bit_depth=bit_depth, guidance=guidance, progress=progress
            )
            write_shard(folder, number, pixels)
    return [shard_name(number) for number in range(len(shards))]


def _draw_shard(
    denoiser: Denoiser,
    shard: Sequence[Candidate],
    settings: SampleSettings,
    *,
    bit_depth: int,
    guidance: Guidance,
    progress: Progress,
) -> StoredPixels:
    from pipeline.sample.draw import draw_candidates

    parts: list[Any] = []
    for first in range(0, len(shard), settings.batch_size):
        batch = shard[first : first + settings.batch_size]
        parts.append(draw_candidates(denoiser, batch, settings, bit_depth=bit_depth, guidance=guidance))
        progress.update(len(batch))
    pixels: StoredPixels = np.concatenate(parts)
    return pixels


def _is_whole(path: Path, shape: tuple[int, ...], bit_depth: int) -> bool:
    """Return whether a shard of an earlier run is there; shards appear by rename, so never in part."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return found.shape == shape and found.dtype == stored_dtype(bit_depth)


def _write_table(
    folder: Path,
    candidates: Sequence[Candidate],
    settings: SampleSettings,
    info: CheckpointInfo,
    checkpoint_digest: str,
) -> str:
    import pandas as pd

    from pipeline.candidates import sample_id, write_candidate_table
    from pipeline.sample.draw import resolved_steps

    names = [info.classes[candidate.label] for candidate in candidates]
    table = pd.DataFrame(
        {
            "sample_id": [
                sample_id(name, candidate.index) for name, candidate in zip(names, candidates, strict=True)
            ],
            "class": names,
            "label": np.array([candidate.label for candidate in candidates], dtype=np.int64),
            "index": np.array([candidate.index for candidate in candidates], dtype=np.int64),
            "seed": pd.array([candidate.seed for candidate in candidates], dtype="Int64"),
            "sampler": settings.sampler,
            "num_steps": resolved_steps(settings),
            "guidance_scale": settings.guidance_scale,
            "checkpoint_digest": checkpoint_digest,
        }
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
    unknown = [name for name in classes if name not in info.classes]
    if unknown:
        raise UsageError(
            "the checkpoint knows no such class",
            field="--class",
            value=unknown[0],
            remedy=f"Choose from {list(info.classes)}.",
        )
    return [info.classes.index(name) for name in classes]


def _require_same(checkpoint: CheckpointRef) -> None:
    from pipeline.stage import load_reference

    if load_reference(CheckpointRef, checkpoint.path).digest != checkpoint.digest:
        raise DataError(
            "the checkpoint directory holds another checkpoint than the one asked for",
            field="checkpoint",
            value=str(checkpoint.path),
            remedy="Train again, or name the right directory.",
        )
