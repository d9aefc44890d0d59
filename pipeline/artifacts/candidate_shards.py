"""Drawing of candidates shard by shard, for any generator. Finished shards are kept; the table comes last."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from pipeline.artifacts.pixels import StoredPixels, shard_name, stored_dtype, write_shard
from pipeline.distributed.process_group import Ranks
from pipeline.errors import DataError, PhosphorError, StorageError, UsageError
from pipeline.progress import Progress, track
from pipeline.records import CheckpointRef

if TYPE_CHECKING:
    import pandas as pd

DrawBatch = Callable[[int, int], StoredPixels]
"""(first, end) -> stored pixels (end - first, 1, H, W) of these candidates, at most a batch of them."""


@dataclass(frozen=True)
class Shards:
    """Files with the pixels of a candidate set.

    Attributes:
        count: total number of candidates.
        rows_per_shard: candidates per file, a multiple of `batch_size`.
        batch_size: candidates drawn at a time.
        image_size: (height, width).
        bit_depth: 8 or 16.
    """

    count: int
    rows_per_shard: int
    batch_size: int
    image_size: tuple[int, int]
    bit_depth: int

    @property
    def spans(self) -> list[tuple[int, int]]:
        """First candidate and end (exclusive) of each file."""
        size = self.rows_per_shard
        return [(first, min(first + size, self.count)) for first in range(0, self.count, size)]

    def missing(self, folder: Path) -> list[int]:
        """Return the numbers of the files that do not exist yet."""
        return [
            number
            for number, (first, end) in enumerate(self.spans)
            if not is_whole(folder / shard_name(number), (end - first, 1, *self.image_size), self.bit_depth)
        ]


def draw_shards(
    folder: Path,
    draw_batch: DrawBatch,
    shards: Shards,
    missing: Sequence[int],
    *,
    stage: str,
    ranks: Ranks | None = None,
) -> list[str]:
    """Draw this process's part of the missing shards, wait for the others, and return all names.

    Shard numbers are distributed over the processes, so each shard is drawn once. Its bytes do not depend on
    the process that draws it.

    Args:
        folder: candidates directory.
        draw_batch: function that draws a range of candidates.
        shards: files of the set.
        missing: numbers of the files to draw, the same on every process.
        stage: label of the progress bar.
        ranks: processes that draw together; None for this one alone.

    Raises:
        StorageError: the disk is full, or another process wrote its shards where process 0 does not see them.
    """
    from models.devices import computing, default_device
    from models.optim.allocator import held_memory

    ranks, spans = ranks or Ranks(), shards.spans
    mine = [number for number in missing if number % ranks.size == ranks.rank]
    with (
        held_memory(),
        computing(default_device()),
        _progress(shards, missing, mine, ranks, stage) as progress,
    ):
        for number in mine:
            start, stop = spans[number]
            parts: list[Any] = []
            for first in range(start, stop, shards.batch_size):
                end = min(first + shards.batch_size, stop)
                parts.append(draw_batch(first, end))
                if progress is not None:
                    progress.update(end - first)
            pixels: StoredPixels = np.concatenate(parts)
            write_shard(folder, number, pixels)
    ranks.wait_for_all()
    if ranks.size > 1 and ranks.is_main and (lost := shards.missing(folder)):
        raise StorageError(
            f"{len(lost)} shards that other processes have drawn are not there",
            field="--out",
            value=str(folder),
            remedy="Name a directory that all nodes of the job share.",
        )
    return [shard_name(number) for number in range(len(spans))]


@contextlib.contextmanager
def _progress(
    shards: Shards, missing: Sequence[int], mine: Sequence[int], ranks: Ranks, stage: str
) -> Iterator[Progress | None]:
    """Show the progress of process 0; the other processes draw about as many candidates."""
    if not ranks.is_main:
        yield None
        return
    sizes = [end - first for first, end in shards.spans]
    done = shards.count - sum(sizes[number] for number in missing)
    total = done + sum(sizes[number] for number in mine)
    with track(stage, total, done=done, unit="candidates") as progress:
        yield progress


def is_whole(path: Path, shape: tuple[int, ...], bit_depth: int) -> bool:
    """Return whether a shard of an earlier run exists. Shards are renamed into place, so none is partial."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return False
    return found.shape == shape and found.dtype == stored_dtype(bit_depth)


def candidate_table(
    names: Sequence[str],
    labels: Sequence[int],
    indices: Sequence[int],
    seeds: Sequence[int],
    *,
    sampler: str,
    num_steps: int,
    guidance_scale: float,
    checkpoint_digest: str,
) -> pd.DataFrame:
    """Return the candidate table (columns `CANDIDATE_COLUMNS`) for one checkpoint and one sampler setting."""
    import pandas as pd

    from pipeline.artifacts.candidates import sample_id

    return pd.DataFrame(
        {
            "sample_id": [sample_id(name, index) for name, index in zip(names, indices, strict=True)],
            "class": list(names),
            "label": np.array(labels, dtype=np.int64),
            "index": np.array(indices, dtype=np.int64),
            "seed": pd.array(list(seeds), dtype="Int64"),
            "sampler": sampler,
            "num_steps": num_steps,
            "guidance_scale": guidance_scale,
            "checkpoint_digest": checkpoint_digest,
        }
    )


def require_finite(images: npt.NDArray[np.floating]) -> None:
    """Check the output of a denoiser.

    Raises:
        PhosphorError: a value is not finite.
    """
    if not np.isfinite(images).all():
        raise PhosphorError(
            "the denoiser returned values that are not finite",
            field="checkpoint",
            remedy="Train again with a lower train.learning_rate or train.precision=fp32.",
        )


def require_known_class(name: str, classes: Sequence[str], *, field: str) -> int:
    """Return the label of a class.

    Raises:
        UsageError: the checkpoint does not know it.
    """
    if name not in classes:
        raise UsageError(
            "the checkpoint knows no such class",
            field=field,
            value=name,
            remedy=f"Choose from {list(classes)}.",
        )
    return list(classes).index(name)


def require_same_checkpoint(checkpoint: CheckpointRef) -> None:
    """Check that the directory of a checkpoint still holds the checkpoint of the reference.

    Raises:
        DataError: it holds another checkpoint.
    """
    from pipeline.stage import load_reference

    if load_reference(CheckpointRef, checkpoint.path).digest != checkpoint.digest:
        raise DataError(
            "the checkpoint directory holds another checkpoint than the one asked for",
            field="checkpoint",
            value=str(checkpoint.path),
            remedy="Train again, or name the right directory.",
        )
