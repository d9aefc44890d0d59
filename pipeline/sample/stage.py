"""The sample stage: generates shard by shard, keeps finished shards, writes the candidate table last."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.artifacts.candidate_shards import (
    Shards,
    candidate_table,
    draw_shards,
    require_known_class,
    require_same_checkpoint,
)
from pipeline.artifacts.checkpoint import read_checkpoint_info
from pipeline.distributed.broadcast import (
    receive,
    receive_reference,
    require_same_command,
    send_reference,
    send_work,
)
from pipeline.distributed.process_group import Ranks, join_ranks
from pipeline.errors import UsageError
from pipeline.records import CandidatesRef, CheckpointRef
from pipeline.sample.conditions import AskedConditions
from pipeline.sample.guiding import check_guidance, make_guidance
from pipeline.sample.plan import plan_sample
from pipeline.sample.settings import SampleSettings
from pipeline.stage import reference_of

if TYPE_CHECKING:
    from models.diffusion.denoiser import Denoiser
    from models.diffusion.guidance import Guidance
    from models.latent.autoencoder import Autoencoder
    from pipeline.artifacts.checkpoint import CheckpointInfo
    from pipeline.sample.draw import Candidate


def run_sample(
    checkpoint: Path | CheckpointRef,
    out: Path,
    settings: SampleSettings,
    *,
    seed: int,
    classes: Sequence[str] | None = None,
    cohort_digest: str | None = None,
    force: bool = False,
) -> CandidatesRef:
    """Generate candidates from a checkpoint.

    A finished output of the same inputs is returned unchanged. Of an unfinished output, complete shards are
    kept. The bytes do not depend on interruptions or on the number of processes. Under `torchrun`, each
    process generates a part of the shards in the same directory, which all processes must be able to access.

    Args:
        checkpoint: the checkpoint to sample from.
        out: the candidates directory (private).
        settings: sample settings.
        seed: run seed; with class and index it determines the seed of each candidate.
        classes: names of the classes to generate; None is all. The candidates of a class do not depend on
            this.
        cohort_digest: required digest of the checkpoint's cohort; None accepts any.
        force: replace an output of other inputs.

    Returns:
        The candidates' reference, with counts `candidates`, `classes` and `per_class` (the requested number,
        to which the audit trims).

    Raises:
        UsageError: a class is unknown or named twice, a condition is unknown or contradicts the classes, or
            `out` holds something else.
        DataError: the checkpoint is unreadable, tampered with, of another cohort, or lacks the snapshots that
            the settings need.
        StorageError: the disk is full or cannot be written.
    """
    checkpoint = reference_of(CheckpointRef, checkpoint)
    # Checked before the directory is opened: an error must not leave anything that would need --force.
    described = read_checkpoint_info(checkpoint.path)
    check_guidance(described, settings)
    if settings.given:
        AskedConditions(described, settings)
    wanted = plan_sample(checkpoint, settings, seed=seed, classes=classes).wanted
    with join_ranks() as ranks:
        named = list(classes) if classes is not None else None
        require_same_command(
            ranks, [CandidatesRef.stage, checkpoint.digest, settings.digest(), seed, named, cohort_digest]
        )
        if not ranks.is_main:
            return _follow(
                ranks, checkpoint, settings, seed=seed, classes=classes, cohort_digest=cohort_digest
            )
        with wanted.open(out, force=force) as folder:
            if folder.finished is not None:
                send_reference(ranks, folder.finished)
                return folder.finished
            drawing = _prepare(checkpoint, settings, seed, classes, cohort_digest)
            missing = drawing.shards.missing(folder.path)
            send_work(ranks, {"folder": str(folder.path), "missing": missing})
            files = drawing.draw(folder.path, missing, ranks)
            files.append(_write_table(folder.path, drawing, checkpoint.digest))
            counts = {
                "candidates": len(drawing.candidates),
                "classes": drawing.num_classes,
                "per_class": settings.per_class,
            }
            reference = folder.finish(files, counts)
            send_reference(ranks, reference)
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
    """Generate this process's shards in the directory that process 0 has opened."""
    finished, told = receive(ranks, CandidatesRef)
    if finished is not None:
        return finished
    drawing = _prepare(checkpoint, settings, seed, classes, cohort_digest)
    drawing.draw(Path(told["folder"]), told["missing"], ranks)
    return receive_reference(ranks, CandidatesRef)


@dataclass(frozen=True)
class _Drawing:
    """The work to do: the denoiser, its autoencoder if it has one, and all candidates in table order."""

    denoiser: Denoiser
    autoencoder: Autoencoder | None
    info: CheckpointInfo
    candidates: Sequence[Candidate]
    num_classes: int
    settings: SampleSettings
    asked: AskedConditions
    guidance: Guidance

    @property
    def shards(self) -> Shards:
        """The files of the candidates."""
        settings, info = self.settings, self.info
        return Shards(
            len(self.candidates),
            rows_per_shard=settings.rows_per_shard,
            batch_size=settings.batch_size,
            image_size=info.image_size,
            bit_depth=info.bit_depth,
        )

    def draw(self, folder: Path, missing: Sequence[int], ranks: Ranks) -> list[str]:
        """Generate this process's part of the missing files and return the names of all files."""
        from pipeline.sample.draw import draw_candidates

        return draw_shards(
            folder,
            lambda first, end: draw_candidates(
                self.denoiser,
                self.candidates[first:end],
                self.settings,
                bit_depth=self.info.bit_depth,
                autoencoder=self.autoencoder,
                guidance=self.guidance,
            ),
            self.shards,
            missing,
            stage="sample",
            ranks=ranks,
        )


def _prepare(
    checkpoint: CheckpointRef,
    settings: SampleSettings,
    seed: int,
    classes: Sequence[str] | None,
    cohort_digest: str | None,
) -> _Drawing:
    # Torch and MONAI take seconds to import; finished candidates are returned without them.
    from pipeline.artifacts.checkpoint import (
        load_autoencoder,
        load_denoiser,
        require_sorted_classes,
        verify_checkpoint,
    )
    from pipeline.sample.draw import list_candidates

    info = verify_checkpoint(checkpoint.path, cohort_digest)
    require_sorted_classes(info)
    denoiser, _ = load_denoiser(checkpoint.path, verified=info, ema_length=settings.ema_length)
    autoencoder = load_autoencoder(checkpoint.path, verified=info)
    require_same_checkpoint(checkpoint)
    asked = AskedConditions(info, settings)
    labels = asked.choose_labels(_chosen_labels(info, classes), named=classes is not None)
    candidates = asked.fill(list_candidates(labels, settings.candidates_per_class, seed))
    guidance = make_guidance(checkpoint.path, info, denoiser, settings)
    return _Drawing(denoiser, autoencoder, info, candidates, len(labels), settings, asked, guidance)


def _write_table(folder: Path, drawing: _Drawing, checkpoint_digest: str) -> str:
    from pipeline.artifacts.candidates import CONDITION_COLUMN, write_candidate_table
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
