"""The train stage: trains, or resumes a training, in its output directory."""

from __future__ import annotations

import logging
from pathlib import Path

from pipeline.artifacts.cohort import open_cohort
from pipeline.distributed.broadcast import (
    receive,
    receive_reference,
    require_same_command,
    send_reference,
    send_work,
)
from pipeline.distributed.process_group import Ranks, join_ranks
from pipeline.records import CheckpointRef, CohortRef
from pipeline.stage import reference_of
from pipeline.train.fine_tuning import check_start
from pipeline.train.plan import few_scans, plan_train
from pipeline.train.settings import TrainSettings

logger = logging.getLogger(__name__)


def run_train(
    cohort: Path | CohortRef, out: Path, settings: TrainSettings, *, seed: int, force: bool = False
) -> CheckpointRef:
    """Train a denoiser on the train split of a cohort.

    A finished output of the same inputs is returned unchanged. An unfinished one is resumed from its last
    saved state and ends with the same weights as without an interruption.

    If RANK and WORLD_SIZE are set, as by `torchrun`, the processes train together: process 0 writes, and all
    return the same reference. A training may be resumed by another number of processes; its weights are then
    equal up to rounding.

    Args:
        cohort: the cohort to train on; only its npy files and `cohort.json` are read.
        out: the checkpoint directory (private).
        settings: training settings.
        seed: run seed, not negative.
        force: replace an output of other inputs.

    Returns:
        The checkpoint's reference, with counts `steps`, `images` and `parameters`.

    Raises:
        OutputExistsError: `out` holds something else.
        UsageError: the checkpoint to start from lies in `out`.
        DataError: the cohort is unreadable, changed, or has a class without a train scan; or the checkpoint
            to start from is missing, changed, or of another network.
        TrainingError: loss or gradient is not finite, or memory is short; the last good state is kept.
        RankFailedError: another process of the job failed.
        StorageError: the disk is full or cannot be written.
    """
    cohort = reference_of(CohortRef, cohort)
    with join_ranks() as ranks:
        require_same_command(ranks, [CheckpointRef.stage, cohort.digest, settings.digest(), seed])
        if not ranks.is_main:
            return _follow(cohort, settings, seed, ranks)
        wanted = plan_train(cohort, settings, seed=seed).wanted
        check_start(settings, out)
        with wanted.open(out, force=force) as folder:
            if folder.finished is not None:
                send_reference(ranks, folder.finished)
                return folder.finished
            opened = open_cohort(cohort)
            if note := few_scans(settings, len(opened.rows("train"))):
                logger.warning(note)
            send_work(ranks, folder.inputs_digest)
            # Importing torch and MONAI takes seconds, which a finished checkpoint does not need.
            from pipeline.train.loop import train

            files, counts = train(
                opened,
                folder.path,
                settings,
                seed=seed,
                inputs_digest=folder.inputs_digest,
                init_digest=wanted.inputs.get("init_from"),
                ranks=ranks,
            )
            reference = folder.finish(files, counts)
            send_reference(ranks, reference)
            return reference


def _follow(cohort: CohortRef, settings: TrainSettings, seed: int, ranks: Ranks) -> CheckpointRef:
    """Train together with process 0, which alone opens the output directory, and return its reference."""
    finished, inputs_digest = receive(ranks, CheckpointRef)
    if finished is not None:
        return finished
    from pipeline.train.loop import train

    train(open_cohort(cohort), None, settings, seed=seed, inputs_digest=inputs_digest, ranks=ranks)
    return receive_reference(ranks, CheckpointRef)
