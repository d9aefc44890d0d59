"""What the speed rows train: the recipe of this machine's device, on drawn images of the recipe's size."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts.cohort import Cohort
from pipeline.recipe import load_recipe
from pipeline.records import CohortRef
from pipeline.train.settings import TrainSettings
from tests.cohorts import write_cohort

SKIPPED_STEPS = 10
"""Steps left out of a rate: the first ones fill caches and compile."""


@dataclass(frozen=True)
class Workload:
    """One training to be timed.

    Attributes:
        recipe: name of the recipe that the settings come from.
        settings: as in the recipe, but with the number of steps of the measurement and without grids or
            saves in between, which belong to no step.
        image_size: side of the images.
        peer_steps: steps over which a peer is timed.
    """

    recipe: str
    settings: TrainSettings
    image_size: int
    peer_steps: int

    @property
    def words(self) -> str:
        """Image size, batch, recipe and network, for a row's detail."""
        size = f"{self.image_size}x{self.image_size}"
        return (
            f"{size}, batch {self.settings.batch_size}, recipe {self.recipe}, {self.settings.network} network"
        )


def workload(recipe: str = "", image_size: int = 0, steps: int = 0, network: str = "") -> Workload:
    """Return the workload of this machine: recipe `gpu` with an accelerator, else `cpu`.

    Args:
        recipe: another recipe; empty chooses by the device.
        image_size: another side; 0 takes the recipe's.
        steps: optimiser steps of ours; 0 takes 80, or 400 on an accelerator.
        network: another `train.network`; empty takes the recipe's.
    """
    from models.devices import default_device

    on_gpu = default_device().type == "cuda"
    name = recipe or ("gpu" if on_gpu else "cpu")
    resolved = load_recipe(name)
    num_steps = steps or (400 if on_gpu else 80)
    changes: dict[str, object] = {
        "num_steps": max(num_steps, 2 * SKIPPED_STEPS),
        "max_minutes": None,
        "grid_every_steps": 0,
        "checkpoint_every_seconds": 3600,
    }
    if network:
        changes["network"] = network
    settings = TrainSettings.model_validate({**resolved.train.model_dump(), **changes})
    peer_steps = max(settings.num_steps * 3 // 8, SKIPPED_STEPS)
    return Workload(name, settings, image_size or resolved.ingest.image_size, peer_steps)


def drawn_cohort(folder: Path, chosen: Workload) -> CohortRef:
    """Write a cohort of drawn images with enough train scans for any batch of the workload."""
    return write_cohort(
        folder, num_scans=max(1000, 4 * chosen.settings.batch_size), image_size=chosen.image_size
    )


def opened(cohort: CohortRef) -> Cohort:
    """Open a cohort by its reference."""
    return Cohort(cohort.path)


def stage_rate(checkpoint: Path) -> float:
    """Return the images a second of the train stage's whole loop (data, loss, optimiser, EMA, reports).

    Read from what the stage itself recorded, after the first steps.
    """
    rows = [row for row in history(checkpoint) if row["step"] >= SKIPPED_STEPS]
    return (rows[-1]["images"] - rows[0]["images"]) / (rows[-1]["seconds"] - rows[0]["seconds"])


def history(checkpoint: Path) -> list[dict[str, float]]:
    """Return the rows of a checkpoint's `progress.csv` as numbers."""
    with (checkpoint / "progress.csv").open(encoding="utf-8", newline="") as stream:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(stream)]
