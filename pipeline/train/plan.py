"""Plans a training and estimates its cost from measured optimiser steps of the real network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.latent.autoencoder_spec import AutoencoderSpec
from models.network.spec import NetworkSpec
from pipeline.artifacts.checkpoint import spectral_law
from pipeline.artifacts.guarantee import require_opacus
from pipeline.cost.estimate import (
    Cost,
    Foreseen,
    Given,
    StagePlan,
    Workload,
    image_size_of,
    known_digest,
    workload_of,
)
from pipeline.cost.network import PlannedNetwork
from pipeline.cost.pacing import pace_of
from pipeline.records import CheckpointRef, CohortRef
from pipeline.stage import StageInputs
from pipeline.train.fine_tuning import network_to_train, start_digest
from pipeline.train.settings import TrainSettings

if TYPE_CHECKING:
    from models.optim.precision import Precision
    from pipeline.train.step import TrainingStep

_GRID_STEPS, _PROBE_STEPS = 8, 12
"""Optimiser steps that take as long as drawing one grid, and as the probe of `train.precision=auto`."""

_FLOAT_BYTES = 4
FEW_SCANS = 200
"""Train scans below which a training says what to expect (docs/results.md, studies of the self regime)."""


def plan_train(cohort: Given[CohortRef], settings: TrainSettings, *, seed: int) -> StagePlan[CheckpointRef]:
    """Return what `run_train` would do with these arguments.

    The checkpoint to start from is identified by its digest, not by its path.

    Raises:
        DataError: the cohort, or the checkpoint to start from, is not a finished output.
    """
    start = start_digest(settings)
    inputs = {"cohort": known_digest(CohortRef, cohort)}
    if start is not None:
        # Its law is part of what its digest covers, and it is read later, with errors that name the setting.
        inputs["init_from"] = start
    elif (law := spectral_law(network_to_train(settings, image_size_of(cohort))[1])) is not None:
        inputs["spectral_law"] = str(law)
    return StagePlan(
        StageInputs(CheckpointRef, inputs, settings.content_settings(), seed),
        estimate=lambda: estimate_train(settings, workload_of(cohort)),
        note=lambda: few_scans(settings, workload_of(cohort).num_train),
        foresee=lambda: Foreseen(work := workload_of(cohort), network_of(settings, work)),
    )


def few_scans(settings: TrainSettings, num_train: int) -> str:
    """Return what to expect of a training on few scans; empty if there are enough or it stops by itself."""
    if num_train >= FEW_SCANS or settings.stop_when_memorising:
        return ""
    return (
        f"{num_train} train scans are few: generators of 40 to 400 scans began to repeat them within some "
        "hundred steps, and the gate refused many; train.stop_when_memorising=true keeps the weights from "
        "before, and `phosphor study` tells whether such images help"
    )


def network_of(settings: TrainSettings, work: Workload) -> PlannedNetwork:
    """Return the network that is trained on a cohort, without conditions other than the class."""
    data = settings.data_fields(work.image_size)
    layers, parametrisation = network_to_train(settings, work.image_size)
    return PlannedNetwork(
        NetworkSpec.from_dict({**data, "num_classes": work.num_classes, **layers}),
        "fp32" if settings.dp.epsilon is not None else settings.precision,
        settings.sigma_data,
        settings.latent.autoencoder_spec(work.image_size) if settings.latent.enabled else None,
        parametrisation,
    )


def estimate_train(settings: TrainSettings, work: Workload) -> Cost:
    """Estimate training: number of steps times the measured time of a step at the real batch size."""
    network = network_of(settings, work)
    step = train_speed(settings, network)
    seconds = settings.num_steps * step.seconds
    if settings.max_minutes is not None:
        seconds = min(seconds, 60.0 * settings.max_minutes)
    seconds += 1.0
    if settings.precision == "auto":
        seconds += _PROBE_STEPS * step.seconds
    if settings.grid_every_steps:
        seconds += settings.num_steps // settings.grid_every_steps * _GRID_STEPS * step.seconds
    lengths = len(settings.ema_lengths)
    # In fp32, the model, and weights, averages and both moments of AdamW in two saved states; in 16 bits, the
    # snapshots of the averages.
    disk = step.parameters * (_FLOAT_BYTES * (1 + 2 * (3 + lengths)) + 2 * lengths * settings.ema_snapshots)
    if network.autoencoder is not None:
        added = _autoencoder_cost(settings, work, network.autoencoder, network.arithmetic())
        seconds, disk = seconds + added[0], disk + added[1]
    return Cost.here(seconds, disk_bytes=disk, more_bytes=step.more_bytes, device_bytes=step.device_bytes)


@dataclass(frozen=True)
class StepSpeed:
    """Measured cost of an optimiser step.

    Attributes:
        seconds: time of one step.
        parameters: number of parameters of the network.
        more_bytes: memory that a whole batch needs beyond what this process already uses.
        device_bytes: memory on the GPU.
    """

    seconds: float
    parameters: int
    more_bytes: int
    device_bytes: int


def train_speed(settings: TrainSettings, network: PlannedNetwork) -> StepSpeed:
    """Measure the optimiser step of the training on scans of zeros."""
    import torch

    from models.devices import default_device
    from models.optim.memory import step_bytes
    from models.optim.precision import apply_precision
    from pipeline.train.memory_plan import scans_that_fit

    denoiser = network.denoiser()
    parameters = sum(parameter.numel() for parameter in denoiser.parameters())
    at_once, scan_bytes = min(settings.micro_batch or settings.batch_size, settings.batch_size), 0
    # Opacus holds the gradients of each scan and does not report their size.
    if settings.dp.epsilon is None:
        precision = network.arithmetic()
        computing = apply_precision(denoiser, precision)
        scan_bytes = step_bytes(computing, recompute=settings.checkpoint_activations)
        if settings.micro_batch is None:
            fitting = scans_that_fit(
                computing,
                precision,
                default_device(),
                each=scan_bytes,
                count=settings.batch_size,
                averages=len(settings.ema_lengths),
                recompute=settings.checkpoint_activations,
            )
            at_once = fitting or at_once
    settings = settings.model_copy(update={"micro_batch": at_once})
    made: dict[int, TrainingStep] = {}

    def run(count: int) -> None:
        if count not in made:
            # Each step holds weights, averages and moments, so only one is kept.
            made.clear()
            made[count] = _training_step(settings, network, count)
        step = made[count]
        images = torch.zeros(count, *step.denoiser.sample_shape, device=step.device)
        step.run(0, images, step.denoiser.null_codes(count, step.device), 1e-9)

    pace = pace_of(run, settings.batch_size)
    return StepSpeed(pace.seconds, parameters, max(at_once - pace.timed, 0) * scan_bytes, pace.device_bytes)


def _training_step(settings: TrainSettings, network: PlannedNetwork, count: int) -> TrainingStep:
    """Return the optimiser step of a training on this machine, with batches of `count` scans."""
    import torch

    from models.devices import default_device
    from models.optim.precision import Precision
    from pipeline.distributed.process_group import Ranks
    from pipeline.train.latent.sources import PixelSource
    from pipeline.train.machine_plan import MachinePlan
    from pipeline.train.monitoring.timing import NoTiming
    from pipeline.train.private.budget import PrivacyBudget
    from pipeline.train.private.step import PrivateStep
    from pipeline.train.step import TrainingStep

    epsilon = settings.dp.epsilon
    precision = network.arithmetic() if epsilon is None else Precision("fp32", channels_last=False)
    machine = MachinePlan(
        default_device(), torch.get_num_threads(), precision, micro_batch=settings.micro_batch
    )
    no_cohort: Any = None  # The step gets its scans as arguments.
    shared: dict[str, Any] = {"seed": 0, "timing": NoTiming(), "source": PixelSource(no_cohort)}
    few = settings.model_copy(update={"batch_size": count})
    if epsilon is None:
        return TrainingStep(network.denoiser(), few, machine, Ranks(), **shared)
    require_opacus(epsilon)
    budget = PrivacyBudget(1.0, 1.0, 1.0, delta=0.5, unit="image", num_units=count, secret=0)
    return PrivateStep(network.denoiser(), few, machine, Ranks(), budget=budget, **shared)


def _autoencoder_cost(
    settings: TrainSettings, work: Workload, spec: AutoencoderSpec, precision: Precision
) -> tuple[float, int]:
    """Measure training of the autoencoder and encoding of all scans; return the seconds and bytes on disk."""
    import torch

    from models.devices import default_device
    from models.latent.autoencoder import BLOCK_SIZE, Autoencoder, autoencoder_loss, freeze_autoencoder
    from models.optim.optimiser import Optimiser
    from models.optim.working_copy import NarrowCopy

    device, batch_size = default_device(), settings.latent.batch_size
    autoencoder = Autoencoder(spec).to(device)
    working = NarrowCopy(autoencoder.train(), precision)
    optimizer = Optimiser(autoencoder.named_parameters(), name="adamw", weight_decay=0.0)
    latent_shape = (spec.latent_channels, *spec.latent_size)
    images = torch.zeros(max(batch_size, BLOCK_SIZE), 1, *spec.image_size, device=device)
    noise = torch.zeros(batch_size, *latent_shape, device=device)

    def step(count: int) -> None:
        autoencoder_loss(
            working.model, images[:count], noise=noise[:count], gradient_weight=1.0, kl_weight=1e-3
        ).total.backward()
        working.return_gradients()
        optimizer.step(1e-9)
        working.clear_gradients()
        working.take_weights()

    trained = pace_of(step, batch_size)
    frozen = freeze_autoencoder(autoencoder)
    encoded = pace_of(lambda count: frozen.moments(images[:count]), BLOCK_SIZE)
    parameters = sum(parameter.numel() for parameter in frozen.parameters())
    # Weights, and two saved states, in fp32; mean and log-variance of each latent in 16 bits.
    disk = parameters * _FLOAT_BYTES * (1 + 2 * 4) + work.num_train * 2 * 2 * math.prod(latent_shape)
    seconds = settings.latent.num_steps * trained.seconds + work.num_train * encoded.seconds / BLOCK_SIZE
    return seconds, disk
