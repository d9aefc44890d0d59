"""Mean and log-variance of every train scan's latent, encoded once into memory-mapped shards (private)."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from models.latent.autoencoder import Autoencoder
from pipeline.arrays import Ints
from pipeline.artifacts.cohort import Cohort
from pipeline.distributed.process_group import Ranks
from pipeline.errors import DataError, TrainingError
from pipeline.progress import Progress, track
from pipeline.storage import make_private_directory, read_json, storage_errors, write_json, write_npy

FOLDER_NAME = "latents"
INDEX_NAME = "latents.json"
SHARD_ROWS = 1024

Moments = npt.NDArray[np.float16]
"""(N, 2 C, h, w): C channels of the mean, then C of the log-variance."""


def weights_digest(autoencoder: Autoencoder) -> str:
    """Return the sha256 (hex) of the network's weights, independent of their layout in memory."""
    digest = hashlib.sha256()
    for name, tensor in sorted(autoencoder.network.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def encode_rows(autoencoder: Autoencoder, cohort: Cohort, rows: Ints) -> Moments:
    """Return the moments of cohort rows (N, 2 C, h, w) float16, computed on the autoencoder's device.

    Raises:
        TrainingError: a value is not finite in half precision.
    """
    device = next(autoencoder.parameters()).device
    images = torch.from_numpy(cohort.images(rows)).to(device)
    moments = autoencoder.moments(images).to(torch.float16)
    if not bool(torch.isfinite(moments).all()):
        raise TrainingError(
            "the latents of the autoencoder are not finite in half precision",
            field="train.latent.kl_weight",
            remedy="Raise it, or lower train.latent.learning_rate, and train again with --force.",
        )
    stored: Moments = moments.cpu().numpy()
    return stored


def encode_cohort(
    autoencoder: Autoencoder, cohort: Cohort, folder: Path | None, ranks: Ranks
) -> MomentShards:
    """Encode the train rows into shards; complete shards of the same autoencoder are kept.

    The number of a shard determines the process that encodes it.

    Args:
        autoencoder: the trained autoencoder, frozen, on its device, the same on every process.
        cohort: the cohort.
        folder: the checkpoint directory on process 0, which sends it to the others; None on these.
        ranks: the processes of the job; all must reach the checkpoint directory.

    Raises:
        TrainingError: a latent is not finite in half precision.
        DataError: a process does not see the shards of another.
    """
    rows = cohort.rows("train")
    home = Path(ranks.broadcast(None if folder is None else str(_prepare(folder, autoencoder, cohort))))
    shape = (2 * autoencoder.spec.latent_channels, *autoencoder.spec.latent_size)
    parts = [rows[first : first + SHARD_ROWS] for first in range(0, len(rows), SHARD_ROWS)]
    missing = [
        number
        for number, part in enumerate(parts)
        if _open(home / shard_name(number), (len(part), *shape)) is None
    ]
    # Process 0 decides for all, because shards may appear between the checks of two processes.
    missing = ranks.broadcast(missing)
    mine = [number for number in missing if number % ranks.size == ranks.rank]
    with _progress(parts, missing, mine, ranks) as progress:
        for number in mine:
            moments = _encode_part(autoencoder, cohort, parts[number], progress)
            write_npy(home / shard_name(number), moments, private=True)
    ranks.wait_for_all()
    return MomentShards(home, [len(part) for part in parts], shape)


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"moments-{number:05d}.npy"


class MomentShards:
    """Read access to the shards as one array of rows, in the order of the train split's rows.

    Args:
        folder: folder of the shards.
        lengths: number of rows of each shard.
        shape: shape of one row.

    Raises:
        DataError: a shard is missing or has another shape.
    """

    def __init__(self, folder: Path, lengths: list[int], shape: tuple[int, int, int]) -> None:
        self.shape = shape
        self._starts = np.cumsum([0, *lengths])
        self._shards: list[Moments] = []
        for number, length in enumerate(lengths):
            shard = _open(folder / shard_name(number), (length, *shape))
            if shard is None:
                raise DataError(
                    f"{shard_name(number)} is missing or has another shape",
                    field="latents",
                    remedy="Choose an --out that all nodes of the job share, or train again.",
                )
            self._shards.append(shard)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def take(self, places: Ints) -> Moments:
        """Return the moments at some positions in the train split, (n, 2 C, h, w), as a new array."""
        out = np.empty((len(places), *self.shape), dtype=np.float16)
        owner = np.searchsorted(self._starts, places, side="right") - 1
        for number in np.unique(owner):
            here = np.flatnonzero(owner == number)
            out[here] = self._shards[number][places[here] - self._starts[number]]
        return out

    def statistics(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation of latents drawn from the moments, each (C,) float32.

        The variance is the variance of the means plus the mean of the variances, summed in fp64 over all
        rows.
        """
        num_channels = self.shape[0] // 2
        total, squares, variance = (np.zeros(num_channels) for _ in range(3))
        for shard in self._shards:
            for first in range(0, len(shard), 64):
                block = shard[first : first + 64].astype(np.float64)
                mean, logvar = block[:, :num_channels], block[:, num_channels:]
                total += mean.sum(axis=(0, 2, 3))
                squares += np.square(mean).sum(axis=(0, 2, 3))
                variance += np.exp(logvar).sum(axis=(0, 2, 3))
        count = len(self) * self.shape[1] * self.shape[2]
        mean = total / count
        std = np.sqrt(np.maximum(squares / count - np.square(mean), 0.0) + variance / count)
        return torch.from_numpy(mean).float(), torch.from_numpy(std).float()


def _prepare(folder: Path, autoencoder: Autoencoder, cohort: Cohort) -> Path:
    """Create the folder of the shards, and remove shards of another autoencoder or cohort."""
    home = make_private_directory(folder.resolve() / FOLDER_NAME)
    index = {
        "autoencoder": weights_digest(autoencoder),
        "cohort": cohort.digest,
        "rows": len(cohort.rows("train")),
    }
    if not _is_of(home, index):
        with storage_errors(home):
            for stale in home.glob("moments-*.npy"):
                stale.unlink()
        write_json(home / INDEX_NAME, index, private=True)
    return home


@contextlib.contextmanager
def _progress(
    parts: list[Ints], missing: list[int], mine: list[int], ranks: Ranks
) -> Iterator[Progress | None]:
    """Show the progress of process 0; every other process encodes about as many scans."""
    if not ranks.is_main:
        yield None
        return
    done = sum(len(part) for number, part in enumerate(parts) if number not in missing)
    total = done + sum(len(parts[number]) for number in mine)
    with track("encode scans", total, done=done, unit="scans") as progress:
        yield progress


def _encode_part(autoencoder: Autoencoder, cohort: Cohort, rows: Ints, progress: Progress | None) -> Moments:
    parts: list[Moments] = []
    for first in range(0, len(rows), 64):
        parts.append(encode_rows(autoencoder, cohort, rows[first : first + 64]))
        if progress is not None:
            progress.update(len(parts[-1]))
    whole: Moments = np.concatenate(parts)
    return whole


def _open(path: Path, shape: tuple[int, ...]) -> Moments | None:
    """Map a shard into memory; return None if it is missing, unreadable or of another shape or type."""
    try:
        shard = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return shard if shard.shape == shape and shard.dtype == np.float16 else None


def _is_of(home: Path, index: dict[str, object]) -> bool:
    try:
        return bool(read_json(home / INDEX_NAME, role="latents") == index)
    except DataError:
        return False
