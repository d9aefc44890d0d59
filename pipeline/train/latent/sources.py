"""Data sources of the denoiser: pixels of the cohort, or latents sampled from their moments."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from models.checkpoint import load_into, read_tensors, write_tensors
from models.latent.autoencoder import Autoencoder, freeze_autoencoder, sample_latents
from pipeline.arrays import Ints
from pipeline.artifacts.checkpoint import AUTOENCODER_NAME
from pipeline.artifacts.cohort import Cohort
from pipeline.distributed.process_group import Ranks
from pipeline.storage import storage_errors
from pipeline.train.batches import require_usable
from pipeline.train.latent.autoencoder import AutoencoderTrainer
from pipeline.train.latent.moments import MomentShards, encode_cohort, encode_rows
from pipeline.train.latent.settings import LatentSettings
from pipeline.train.machine_plan import MachinePlan
from pipeline.train.parts import RuntimeSettings

logger = logging.getLogger(__name__)


class PixelSource:
    """Images of the cohort."""

    autoencoder: Autoencoder | None = None

    def __init__(self, cohort: Cohort) -> None:
        self._cohort = cohort

    def read(self, rows: Ints) -> npt.NDArray[np.float32]:
        """Return the images (N, 1, H, W) of cohort rows, in [-1, 1].

        Raises:
            DataError: an image has values that are not finite or are outside [-1, 1].
        """
        images = self._cohort.images(rows)
        require_usable(images)
        return images

    def clean(self, read: Tensor, generator: torch.Generator, *, count: int, share: slice) -> Tensor:
        """Return the images of `read` unchanged."""
        return read

    def expected(self, rows: Ints) -> Tensor:
        """Return the images (N, 1, H, W) of cohort rows, on the CPU."""
        return torch.from_numpy(self.read(rows))


class LatentSource:
    """Latents of the cohort's scans, sampled again at each use.

    The moments are stored and not the sampled latents, because a denoiser that always sees the same sampling
    noise would learn it.

    Args:
        cohort: the cohort.
        shards: moments of its train rows.
        autoencoder: frozen autoencoder with its scaling, on the training device.
    """

    def __init__(self, cohort: Cohort, shards: MomentShards, autoencoder: Autoencoder) -> None:
        self._cohort, self._shards = cohort, shards
        self.autoencoder: Autoencoder | None = autoencoder
        self._encoder = autoencoder
        self._rows = cohort.rows("train")

    def read(self, rows: Ints) -> npt.NDArray[np.float16]:
        """Return the moments (N, 2 C, h, w) of cohort rows; rows outside the train split are encoded here."""
        places = np.minimum(np.searchsorted(self._rows, rows), len(self._rows) - 1)
        if np.array_equal(self._rows[places], rows):
            return self._shards.take(places)
        return encode_rows(self._encoder, self._cohort, rows)

    def clean(self, read: Tensor, generator: torch.Generator, *, count: int, share: slice) -> Tensor:
        """Sample normalised latents (n, C, h, w) from the moments of `read`.

        Args:
            read: moments of this process's scans, on the device.
            generator: generator of this step, on the device.
            count: number of scans of the whole batch, for all of which noise is drawn.
            share: positions of this process in the batch.
        """
        mean, logvar = read.float().chunk(2, dim=1)
        noise = torch.randn((count, *mean.shape[1:]), generator=generator, device=mean.device)[share]
        return self._encoder.normalise(sample_latents(mean, logvar, noise))

    def expected(self, rows: Ints) -> Tensor:
        """Return the expected latents (N, C, h, w) of cohort rows, normalised, on the training device."""
        read = torch.from_numpy(self.read(rows)).to(self._encoder.scale.device)
        return self._encoder.normalise(read.float().chunk(2, dim=1)[0])


def open_source(
    cohort: Cohort,
    folder: Path | None,
    latent: LatentSettings,
    plan: MachinePlan,
    ranks: Ranks,
    *,
    runtime: RuntimeSettings,
    sigma_data: float,
    seed: int,
    inputs_digest: str,
) -> PixelSource | LatentSource:
    """Return the data source of the denoiser; in latent mode, train the autoencoder and encode first.

    After a kill, it resumes from the last saved state of the autoencoder or the last complete shard.

    Args:
        cohort: the cohort.
        folder: the checkpoint directory, which gets `autoencoder.safetensors` in latent mode; None on every
            process but the first.
        latent: of the autoencoder, and whether there is one.
        plan: device, threads and arithmetic.
        ranks: the processes that train together.
        runtime: what is asked of the machine.
        sigma_data: standard deviation that latents are scaled to.
        seed: run seed.
        inputs_digest: digest of the run's inputs.

    Raises:
        DataError: the latents of such small scans would be too small.
        TrainingError: the autoencoder's loss or latents are no longer finite.
    """
    if not latent.enabled:
        return PixelSource(cohort)
    spec = latent.autoencoder_spec(cohort.info.image_size)
    header = {"autoencoder": spec.to_dict(), "inputs_digest": inputs_digest}
    autoencoder = Autoencoder(spec)
    path = None if folder is None else folder / AUTOENCODER_NAME
    finished = ranks.broadcast(path is not None and _load_finished(path, autoencoder, header))
    if finished:
        autoencoder.to(plan.device)
        ranks.broadcast_tensors(list(autoencoder.state_dict().values()))
    else:
        trainer = AutoencoderTrainer(
            cohort, folder, latent, plan, ranks, runtime=runtime, seed=seed, inputs_digest=inputs_digest
        )
        autoencoder = trainer.run()
    shards = encode_cohort(freeze_autoencoder(autoencoder), cohort, folder, ranks)
    if not finished:
        # Equal on every process, because all read the same shards.
        autoencoder.set_scaling(*shards.statistics(), target_std=sigma_data)
        if path is not None:
            with storage_errors(path):
                write_tensors(path, autoencoder.state_dict(), header)
    return LatentSource(cohort, shards, autoencoder)


def _load_finished(path: Path, autoencoder: Autoencoder, header: dict[str, Any]) -> bool:
    """Load the autoencoder if this run has already finished it, and return whether it has."""
    if not path.is_file():
        return False
    try:
        found = read_tensors(path, autoencoder.state_dict())
        if found.metadata != header:
            raise ValueError("it belongs to another run")
        load_into(autoencoder, found.tensors)
    except (ValueError, OSError) as error:
        logger.warning("%s cannot be used (%s); going on from its saved state", path.name, error)
        return False
    return True
