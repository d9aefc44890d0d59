"""Images at the size that classifiers read: training and sampling at 224 pixels, memory at 512."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pipeline.records import CheckpointRef, CohortRef
from tests.experiments.benchmarks.machine import in_own_process, peak_bytes
from tests.experiments.benchmarks.rows import Row
from tests.experiments.benchmarks.training import load_libraries
from tests.experiments.benchmarks.workload import Workload, drawn_cohort, opened, stage_rate, workload

RATE_GOAL, SECONDS_GOAL, MEMORY_GOAL = 3.0, 1.0, 8.0
GIB = 2**30


def measure(
    rounds: int = 3,
    steps: int = 30,
    size: int = 224,
    large: int = 512,
    recipe: str = "cpu",
    peer_steps: int = 2,
    peer_batch: int = 0,
    per_class: int = 16,
) -> Iterator[Row]:
    """Time rounds of ours and of the loops of MONAI's 2D latent-diffusion tutorial in turn, then the rest.

    Args:
        rounds: rounds of ours and of the tutorial.
        steps: optimiser steps of ours a round.
        size: side of the images that are timed; large: of those whose memory is measured.
        recipe: recipe of ours.
        peer_steps: timed steps of each of the tutorial's loops.
        peer_batch: images a step of the tutorial's; 0 takes its own.
        per_class: candidates of each class that sampling is timed on.
    """
    chosen = workload(recipe, size, steps)
    with tempfile.TemporaryDirectory(prefix="phosphor-bench-") as name:
        folder = Path(name)
        cohort = drawn_cohort(folder / "cohort", chosen)
        ours: list[float] = []
        theirs: list[tuple[float, float]] = []
        for index in range(rounds):
            ours.append(in_own_process(_ours, cohort, folder / f"checkpoint-{index}", chosen)[0])
            theirs.append(in_own_process(_tutorial, cohort, peer_steps, peer_batch))
        yield _rate_row(ours, theirs, chosen)
        seconds = tuple(
            in_own_process(_sampling, folder / "checkpoint-0", folder / f"drawn-{index}", per_class)
            for index in range(rounds)
        )
        detail = f"{size}x{size}, the recommended steps of the default sampler"
        yield Row("seconds an image of the sample stage", seconds, SECONDS_GOAL, False, detail, "s")
        chosen = workload(recipe, large, 1)
        cohort = drawn_cohort(folder / "large", chosen)
        _, peak, imported = in_own_process(_ours, cohort, folder / "checkpoint-large", chosen)
        detail = f"{chosen.words}; {imported / GIB:.2f} GiB of it after imports"
        yield Row("peak memory of training", (peak / GIB,), MEMORY_GOAL, False, detail, "GiB")


def _rate_row(ours: list[float], theirs: list[tuple[float, float]], chosen: Workload) -> Row:
    denoiser, autoencoder = (sum(rates) / len(rates) for rates in zip(*theirs, strict=True))
    return Row(
        "training images a second over the denoiser's loop of MONAI's 2D latent-diffusion tutorial",
        tuple(own / peer for own, (peer, _) in zip(ours, theirs, strict=True)),
        RATE_GOAL,
        True,
        f"{sum(ours) / len(ours):.1f} against {denoiser:.2f} images a second (its autoencoder's loop, which "
        f"comes first, {autoencoder:.2f} without the perceptual loss); {chosen.words}",
    )


def _ours(cohort: CohortRef, out: Path, chosen: Workload) -> tuple[float, int, int]:
    """Run the whole train stage; returns images a second, peak memory, and that after imports."""
    from pipeline.train import run_train

    load_libraries()
    imported = peak_bytes()
    run_train(cohort, out, chosen.settings, seed=0)
    return stage_rate(out), peak_bytes(), imported


def _tutorial(cohort: CohortRef, steps: int, batch: int) -> tuple[float, float]:
    """Return images a second of the tutorial's denoiser loop and of its autoencoder loop."""
    from models.devices import default_device
    from tests.experiments.benchmarks import peer_latent
    from tests.experiments.benchmarks.peers import train_peer

    device, data = default_device(), opened(cohort)
    loops = (
        (peer_latent.LatentDenoiserLoop(device), peer_latent.DENOISER_BATCH),
        (peer_latent.AutoencoderLoop(device), peer_latent.AUTOENCODER_BATCH),
    )
    denoiser, autoencoder = (
        train_peer(loop, data, batch_size=batch or own, device=device, num_steps=steps).images_per_second
        for loop, own in loops
    )
    return denoiser, autoencoder


def _sampling(checkpoint: Path, out: Path, per_class: int) -> float:
    """Return wall seconds an image of the sample stage."""
    from pipeline.sample import run_sample
    from pipeline.sample.settings import SampleSettings
    from pipeline.stage import load_reference

    load_libraries()
    reference = load_reference(CheckpointRef, checkpoint)
    settings = SampleSettings(per_class=per_class, overdraw=1.0, batch_size=min(per_class, 64))
    started = time.perf_counter()
    drawn = run_sample(reference, out, settings, seed=0)
    return (time.perf_counter() - started) / drawn.counts["candidates"]
