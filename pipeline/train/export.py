"""Writes the finished checkpoint: the chosen average and its description."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from models.checkpoint import write_tensors
from models.diffusion.denoiser import Denoiser
from models.latent.autoencoder import Autoencoder
from models.optim.snapshots import snapshot_name
from pipeline.artifacts.checkpoint import (
    AUTOENCODER_NAME,
    INFO_NAME,
    MODEL_NAME,
    CheckpointInfo,
    library_versions,
    spectral_law,
)
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.condition_counts import count_combinations
from pipeline.artifacts.conditions import CohortConditions
from pipeline.storage import storage_errors, write_json
from pipeline.train.fine_tuning import Start
from pipeline.train.machine_plan import MachinePlan
from pipeline.train.private.budget import PrivacyBudget, forget_secret
from pipeline.train.settings import TrainSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ChosenAverage:
    """The average that becomes the model.

    Attributes:
        tensors: its weights by name.
        denoiser: the denoiser that the weights belong to.
        step: the step at which it was taken.
        snapshots: steps of the snapshots up to it.
    """

    tensors: Mapping[str, Tensor]
    denoiser: Denoiser
    step: int
    snapshots: tuple[int, ...]


def write_checkpoint(
    cohort: Cohort,
    folder: Path,
    settings: TrainSettings,
    chosen: ChosenAverage,
    plan: MachinePlan,
    *,
    conditions: CohortConditions,
    num_steps: int,
    start: Start | None,
    seed: int,
    autoencoder: Autoencoder | None,
    budget: PrivacyBudget | None = None,
) -> tuple[list[str], dict[str, int]]:
    """Write `model.safetensors` and `checkpoint.json` (private).

    Args:
        cohort: the cohort trained on.
        folder: the checkpoint directory.
        settings: training settings.
        chosen: the average that becomes the model.
        plan: device, threads and precision of the training.
        conditions: conditions of the training besides the class.
        num_steps: number of optimiser steps done.
        start: the checkpoint that training started from, or None.
        seed: run seed.
        autoencoder: the autoencoder of a training on latents, or None.
        budget: the budget of a differentially private training, or None.

    Returns:
        The names of the content files with the snapshots, and the counts for the reference.
    """
    denoiser = chosen.denoiser
    info = CheckpointInfo(
        network=denoiser.spec.to_dict(),
        autoencoder=None if autoencoder is None else autoencoder.spec.to_dict(),
        sigma_data=denoiser.sigma_data,
        parametrisation=denoiser.parametrisation,
        spectral_law=spectral_law(denoiser.parametrisation),
        classes=cohort.info.classes,
        conditions=conditions.fields,
        combinations=count_combinations(cohort, conditions, min_patients=settings.min_combination_patients),
        image_size=cohort.info.image_size,
        bit_depth=cohort.info.bit_depth,
        cohort_digest=cohort.digest,
        cohort_name=cohort.info.name,
        num_steps=num_steps,
        images_seen=num_steps * settings.batch_size,
        ema_step=chosen.step,
        ema_length=settings.ema_length,
        ema_lengths=settings.ema_lengths,
        snapshots=chosen.snapshots,
        init_digest=None if start is None else start.digest,
        earlier_cohorts=() if start is None else start.cohorts,
        differential_privacy=None if budget is None else budget.spent(num_steps),
        seed=seed,
        precision=plan.precision.dtype,
        channels_last=plan.precision.channels_last,
        num_threads=plan.num_threads,
        device=plan.device.type,
        libraries=library_versions(),
    )
    body = info.model_dump(mode="json")
    with storage_errors(folder / MODEL_NAME):
        write_tensors(folder / MODEL_NAME, chosen.tensors, {"checkpoint": body})
    write_json(folder / INFO_NAME, body, private=True)
    if info.differential_privacy is not None:
        logger.info("%s", info.differential_privacy.words)
        forget_secret(folder)
    counts = {
        "steps": info.num_steps,
        "images": info.images_seen,
        "parameters": sum(parameter.numel() for parameter in denoiser.parameters()),
    }
    files = [MODEL_NAME, INFO_NAME, *(snapshot_name(step) for step in chosen.snapshots)]
    return files if autoencoder is None else [*files, AUTOENCODER_NAME], counts
