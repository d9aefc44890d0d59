"""Training images a second against a plain fp32 loop over the same network, as tutorials write it."""

from __future__ import annotations

import csv
import multiprocessing
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import torch
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from pipeline.cohort import Cohort
from pipeline.records import CohortRef
from pipeline.train import run_train
from pipeline.train.settings import TrainSettings
from tests.benchmarks.rows import Row
from tests.cohorts import write_cohort

ROUNDS = 5
OUR_STEPS = 80
PEER_STEPS = 30
SKIPPED_STEPS = 10


def measure() -> list[Row]:
    """Measure rounds of ours and of the peer in turn, each in a process of its own as a user would run it."""
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as name:
        reference = write_cohort(Path(name) / "cohort", num_scans=1000)
        ours, peers = [], []
        for index in range(ROUNDS):
            with ProcessPoolExecutor(1, mp_context=context) as process:
                ours.append(process.submit(_our_rate, reference, Path(name) / f"checkpoint-{index}").result())
            with ProcessPoolExecutor(1, mp_context=context) as process:
                peers.append(process.submit(_tutorial_rate, reference.path).result())
    detail = f"{_mean(ours):.0f} against {_mean(peers):.0f} images a second at 32x32, batch 64"
    ratios = tuple(our / peer for our, peer in zip(ours, peers, strict=True))
    return [Row("training images a second over the tutorial loop", ratios, 2.0, True, detail)]


def _our_rate(cohort: CohortRef, out: Path) -> float:
    """Rate of the whole train stage's loop (data, loss, optimiser, EMA, reports) after the first steps."""
    settings = TrainSettings(num_steps=OUR_STEPS, grid_every_steps=0, checkpoint_every_seconds=3600)
    run_train(cohort, out, settings, seed=0)
    with (out / "progress.csv").open() as stream:
        rows = [row for row in csv.DictReader(stream) if int(row["step"]) >= SKIPPED_STEPS]
    images = int(rows[-1]["images"]) - int(rows[0]["images"])
    return images / (float(rows[-1]["seconds"]) - float(rows[0]["seconds"]))


def _tutorial_rate(folder: Path) -> float:
    """Rate of noise-prediction training in fp32: loader, scheduler, network, mean squared error, Adam.

    The network is MONAI's as it comes, of the sizes of `TrainSettings`.
    """
    from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
    from monai.networks.schedulers import DDPMScheduler

    cohort, settings = Cohort(folder), TrainSettings()
    network = DiffusionModelUNet(
        spatial_dims=2,
        in_channels=1,
        out_channels=1,
        num_res_blocks=settings.num_res_blocks,
        channels=settings.channels,
        attention_levels=settings.attention,
        norm_num_groups=settings.num_norm_groups,
        num_head_channels=settings.num_head_channels,
        num_class_embeds=len(cohort.info.classes) + 1,
    ).train()
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
    rows = cohort.rows("train")
    data = TensorDataset(
        torch.from_numpy(cohort.images(rows)), torch.from_numpy(cohort.labels[rows].astype("int64"))
    )
    loader = DataLoader(data, batch_size=64, shuffle=True, drop_last=True)
    done, started = 0, 0.0
    while done < PEER_STEPS + 3:
        for images, labels in loader:
            if done == 3:
                started = time.perf_counter()
            if done == PEER_STEPS + 3:
                break
            optimizer.zero_grad(set_to_none=True)
            noise = torch.randn_like(images)
            timesteps = torch.randint(0, 1000, (len(images),))
            noisy = scheduler.add_noise(original_samples=images, noise=noise, timesteps=timesteps)
            predicted = network(noisy, timesteps, class_labels=labels)
            functional.mse_loss(predicted, noise).backward()
            optimizer.step()
            done += 1
    return PEER_STEPS * 64 / (time.perf_counter() - started)


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)
