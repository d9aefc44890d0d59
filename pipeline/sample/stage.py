"""The sample stage: draws shard after shard, keeps finished ones, writes the candidate table last."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.drawing import candidate_table, is_whole, require_known_class, require_same_checkpoint
from pipeline.errors import StorageError, UsageError
from pipeline.generator import read_checkpoint_info
from pipeline.joint_stage import hear, hear_reference, require_same_command, tell_reference, tell_to_work
from pipeline.pixels import StoredPixels, shard_name, write_shard
from pipeline.progress import Progress, track
from pipeline.ranks import Ranks, join_ranks
from pipeline.records import CandidatesRef, CheckpointRef
from pipeline.sample.conditions import AskedConditions
from pipeline.sample.guiding import check_guidance, make_guidance
from pipeline.sample.settings import SampleSettings
from pipeline.stage import open_stage

if TYPE_CHECKING:
    from models.autoencoder import Autoencoder
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
    The bytes do not depend on how often the stage was killed, or where, or on the number of processes: under
    `torchrun` each draws a part of the shards into the same directory, which all must reach.

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
        UsageError: a class is unknown or named twice, a condition is unknown or contradicts the classes, or
            `out` holds something else.
        DataError: the checkpoint is unreadable, tampered with, of another cohort, or lacks the snapshots that
            the settings need.
        StorageError: the disk is full or cannot be written.
    """
    # Before the directory is opened: what is wrong leaves nothing behind that would need --force.
    described = read_checkpoint_info(checkpoint.path)
    check_guidance(described, settings)
    if settings.given:
        AskedConditions(described, settings)
    inputs = {"checkpoint": checkpoint.digest}
    if classes is not None:
        inputs["classes"] = ",".join(classes)
    with join_ranks() as ranks:
        named = list(classes) if classes is not None else None
        require_same_command(
            ranks, [CandidatesRef.stage, checkpoint.digest, settings.digest(), seed, named, cohort_digest]
        )
        if not ranks.is_main:
            return _follow(
                ranks, checkpoint, settings, seed=seed, classes=classes, cohort_digest=cohort_digest
            )
        with open_stage(
            CandidatesRef, out, inputs=inputs, settings=settings, seed=seed, force=force
        ) as folder:
            if folder.finished is not None:
                tell_reference(ranks, folder.finished)
                return folder.finished
            drawing = _prepare(checkpoint, settings, seed, classes, cohort_digest)
            missing = drawing.missing(folder.path)
            tell_to_work(ranks, {"folder": str(folder.path), "missing": missing})
            files = _draw(drawing, folder.path, missing, ranks)
            files.append(_write_table(folder.path, drawing, checkpoint.digest))
            counts = {
                "candidates": len(drawing.candidates),
                "classes": drawing.num_classes,
                "per_class": settings.per_class,
            }
            reference = folder.finish(files, counts)
            tell_reference(ranks, reference)
            return reference


def _follow(
    ranks: Ranks,
    checkpoint: CheckpointRef,
    settings: SampleSettings,
    *,
    seed: int,
    classes: Sequence[str] | None,
    cohort_digest: str | None,
) -> CandidatesRef:
    """Draw this process's shards into the directory that process 0 has opened."""
    finished, told = hear(ranks, CandidatesRef)
    if finished is not None:
        return finished
    drawing = _prepare(checkpoint, settings, seed, classes, cohort_digest)
    _draw(drawing, Path(told["folder"]), told["missing"], ranks)
    return hear_reference(ranks, CandidatesRef)


@dataclass(frozen=True)
class _Drawing:
    """What is drawn: the denoiser, its autoencoder if it has one, and all candidates in table order."""

    denoiser: Denoiser
    autoencoder: Autoencoder | None
    info: CheckpointInfo
    candidates: Sequence[Candidate]
    num_classes: int
    settings: SampleSettings
    asked: AskedConditions
    guidance: Guidance

    @property
    def shards(self) -> list[Sequence[Candidate]]:
        """The candidates of each file."""
        size = self.settings.rows_per_shard
        return [self.candidates[first : first + size] for first in range(0, len(self.candidates), size)]

    def missing(self, folder: Path) -> list[int]:
        """Return the numbers of the files that are not there yet."""
        height, width = self.info.image_size
        return [
            number
            for number, shard in enumerate(self.shards)
            if not is_whole(folder / shard_name(number), (len(shard), 1, height, width), self.info.bit_depth)
        ]


def _prepare(
    checkpoint: CheckpointRef,
    settings: SampleSettings,
    seed: int,
    classes: Sequence[str] | None,
    cohort_digest: str | None,
) -> _Drawing:
    # Torch and MONAI take seconds to import; finished candidates are returned without them.
    from pipeline.generator import load_autoencoder, load_denoiser
    from pipeline.sample.draw import list_candidates

    denoiser, info = load_denoiser(checkpoint.path, cohort_digest, ema_length=settings.ema_length)
    autoencoder = load_autoencoder(checkpoint.path)
    require_same_checkpoint(checkpoint)
    asked = AskedConditions(info, settings)
    labels = asked.choose_labels(_chosen_labels(info, classes), named=classes is not None)
    candidates = asked.fill(list_candidates(labels, settings.candidates_per_class, seed))
    guidance = make_guidance(checkpoint.path, info, denoiser, settings)
    return _Drawing(denoiser, autoencoder, info, candidates, len(labels), settings, asked, guidance)


def _draw(drawing: _Drawing, folder: Path, missing: Sequence[int], ranks: Ranks) -> list[str]:
    """Draw this process's part of the missing shards, wait for the others, and return the names of all.

    A shard belongs to the process that its number falls to, so that each is drawn once; its bytes do not
    depend on who draws it.

    Raises:
        StorageError: another process wrote its shards where process 0 does not see them.
    """
    from models.allocator import held_memory

    mine = [number for number in missing if number % ranks.size == ranks.rank]
    shards = drawing.shards
    with held_memory(), _progress(drawing, missing, mine, ranks) as progress:
        for number in mine:
            write_shard(folder, number, _draw_shard(drawing, shards[number], progress))
    ranks.wait_for_all()
    if ranks.size > 1 and ranks.is_main and (lost := drawing.missing(folder)):
        raise StorageError(
            f"{len(lost)} shards that other processes have drawn are not there",
            field="--out",
            value=str(folder),
            remedy="Name a directory that all nodes of the job share.",
        )
    return [shard_name(number) for number in range(len(shards))]


@contextlib.contextmanager
def _progress(
    drawing: _Drawing, missing: Sequence[int], mine: Sequence[int], ranks: Ranks
) -> Iterator[Progress | None]:
    """Show what process 0 has to draw; the others draw as much beside it."""
    if not ranks.is_main:
        yield None
        return
    sizes = [len(shard) for shard in drawing.shards]
    done = sum(sizes) - sum(sizes[number] for number in missing)
    total = done + sum(sizes[number] for number in mine)
    with track("sample", total, done=done, unit="candidates") as progress:
        yield progress


def _draw_shard(drawing: _Drawing, shard: Sequence[Candidate], progress: Progress | None) -> StoredPixels:
    from pipeline.sample.draw import draw_candidates

    settings = drawing.settings
    parts: list[Any] = []
    for first in range(0, len(shard), settings.batch_size):
        batch = shard[first : first + settings.batch_size]
        parts.append(
            draw_candidates(
                drawing.denoiser,
                batch,
                settings,
                bit_depth=drawing.info.bit_depth,
                autoencoder=drawing.autoencoder,
                guidance=drawing.guidance,
            )
        )
        if progress is not None:
            progress.update(len(batch))
    pixels: StoredPixels = np.concatenate(parts)
    return pixels


def _write_table(folder: Path, drawing: _Drawing, checkpoint_digest: str) -> str:
    from pipeline.candidates import CONDITION_COLUMN, write_candidate_table
    from pipeline.sample.draw import resolved_steps

    candidates, settings, info = drawing.candidates, drawing.settings, drawing.info
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
    if info.conditions:
        table[CONDITION_COLUMN] = [drawing.asked.text(candidate) for candidate in candidates]
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
