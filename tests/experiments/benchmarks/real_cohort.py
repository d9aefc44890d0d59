"""The real cohort that quality is measured on, and the KID of images against its val split."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from models.devices import default_device
from models.noise import initial_noise, stream_seed
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.evaluation_report import Estimate
from pipeline.artifacts.pixels import StoredPixels, from_model_range, to_model_range
from pipeline.evaluate.fidelity.distances import kid
from pipeline.evaluate.fidelity.encoder import cohort_encoder
from pipeline.evaluate.fidelity.features import features, real_features
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.evaluate.truth import patient_numbers
from pipeline.ingest import run_ingest
from pipeline.manifest import load_manifest
from pipeline.recipe import Recipe, load_recipe
from pipeline.records import CohortRef
from pipeline.stage import load_reference
from pipeline.storage import write_npy
from tests.experiments.benchmarks.peers import Peer

MANIFESTS = Path(__file__).resolve().parents[3] / "data_manifests"


def device_recipe() -> Recipe:
    """Return the recipe of this machine's device: `gpu` with an accelerator, else `cpu`."""
    return load_recipe("gpu" if default_device().type == "cuda" else "cpu")


def open_or_ingest(path: str, folder: Path, recipe: Recipe) -> CohortRef:
    """Open the cohort at `path`, or ingest PneumoniaMNIST (PHOSPHOR_DATA is set) or the phantom cohort."""
    if path:
        return load_reference(CohortRef, Path(path))
    name = "pneumoniamnist" if os.environ.get("PHOSPHOR_DATA") else "phantom"
    return run_ingest(load_manifest(MANIFESTS / f"{name}.yaml"), folder / "cohort", recipe.ingest)


class KidMeter:
    """KID against a cohort's val split with the cohort's own encoder, at val's class mix.

    Args:
        cohort: the cohort; its encoder is trained, or found beside it.
        settings: of the encoder.
    """

    def __init__(self, cohort: Cohort, settings: EvaluateSettings) -> None:
        self.cohort = cohort
        self.encoder = cohort_encoder(cohort, settings)
        self.val = real_features(self.encoder, cohort, "val", patient_numbers(cohort))

    def labels(self, count: int) -> npt.NDArray[np.int64]:
        """Return classes (count,) in val's proportions, ascending."""
        places = (np.arange(count) + 0.5) / count * len(self.val.labels)
        return np.sort(self.val.labels)[places.astype(np.int64)]

    def features(self, pixels: StoredPixels) -> npt.NDArray[np.float32]:
        """Return features (n, d) of stored pixels (n, 1, H, W)."""
        return features(self.encoder, to_model_range(pixels))

    def kid(self, pixels: StoredPixels) -> Estimate:
        """Return the KID of stored pixels (n, 1, H, W) with its 95 % interval."""
        return kid(self.features(pixels), self.val.features, y_groups=self.val.groups)

    def floor(self, count: int) -> Estimate:
        """Return the KID of train scans in val's class mix, at most `count`: what no generator gets below."""
        rng = np.random.default_rng(0)
        parts = []
        for label, wanted in enumerate(np.bincount(self.labels(count))):
            rows = rng.permutation(self.cohort.rows("train", label))[:wanted]
            parts.append(self.cohort.take(np.sort(rows)))
        return self.kid(np.concatenate(parts))


def kept_batch(path: Path | None, draw: Callable[[], StoredPixels]) -> StoredPixels:
    """Return what `path` holds from an earlier call; otherwise draw it, and keep it where there is a path."""
    if path is not None and path.is_file():
        found: StoredPixels = np.load(path, allow_pickle=False)
        return found
    drawn = draw()
    if path is not None:
        write_npy(path, drawn, private=True)
    return drawn


def sample_peer(
    peer: Peer,
    cohort: Cohort,
    labels: npt.NDArray[np.int64],
    *,
    batch_size: int,
    seed: int,
    kept: Path | None = None,
) -> StoredPixels:
    """Sample a peer at full length and store the images as ours are stored: (n, 1, H, W).

    A thousand steps take long on a CPU: with `kept`, a batch that is there from a killed call is not drawn
    again.
    """
    device = next(peer.network.parameters()).device
    parts = []
    for start in range(0, len(labels), batch_size):

        def drawn(start: int = start) -> StoredPixels:
            generator = torch.Generator(device).manual_seed(stream_seed(seed, "peer-steps", start) % 2**31)
            part = torch.from_numpy(labels[start : start + batch_size]).to(device)
            seeds = [stream_seed(seed, "peer", start + place) for place in range(len(part))]
            noise = initial_noise(seeds, (1, *cohort.info.image_size)).to(device)
            images = peer.sample(noise, part, generator).float().cpu().numpy()
            return from_model_range(np.nan_to_num(images), cohort.info.bit_depth)

        parts.append(kept_batch(kept / f"sampled-{start:06d}.npy" if kept is not None else None, drawn))
    pixels: StoredPixels = np.concatenate(parts)
    return pixels
