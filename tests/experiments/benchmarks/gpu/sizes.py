"""How much each part of the GPU proof does: for a data-centre GPU, and for a rehearsal on a CPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sizes:
    """Sizes of all parts.

    Attributes:
        train_pixels: sides of the images that trainings are timed on, the most telling one first.
        network: `train.network` of those trainings; layers: changes to its layers.
        compiler: what `torch.compile` compiles with.
        batch: scans a step, halved until they fit.
        launch_bound: (side, scans a step) of a training whose kernels are short.
        step_seconds: time that each rate is measured for, a round; rounds: how often.
        ceiling_sides: sides of the matrix products behind the ceilings; empty chooses by the device.
        ceiling_seconds: time for each of them.
        curve_steps: optimiser steps of the two loss curves, and of the run that is killed.
        sample_pixels: sides of the images that samplers are timed on; sample_batch: images a batch.
        sample_steps: sampler steps that are timed, whatever a sampler's recommended number.
        search: (train, holdout, candidates) images of the gate's search; search_pixels: their side.
        embedding_steps: optimiser steps of the copy embedding, in the whole run too; 0 takes the default.
        phantom_scans: phantom images of the whole run; phantom_pixels: their side.
        phantom_train_minutes: training time of the whole run.
        phantom_per_class: images asked for.
        latent_pixels: sides of the images of latent training; latent_batch: scans a step.
        joined_steps: optimiser steps of the training under torchrun.
        profiled: steps of the profile.
    """

    train_pixels: tuple[int, ...] = (64, 128, 32, 256)
    network: str = "medium"
    layers: dict[str, Any] = field(default_factory=dict)
    compiler: str = "inductor"
    batch: int = 512
    launch_bound: tuple[int, int] = (32, 32)
    step_seconds: float = 1.5
    rounds: int = 3
    ceiling_sides: tuple[int, ...] = ()
    ceiling_seconds: float = 0.5
    curve_steps: int = 60
    sample_pixels: tuple[int, ...] = (64, 256)
    sample_batch: int = 256
    sample_steps: int = 10
    search: tuple[int, int, int] = (4708, 624, 5000)
    search_pixels: int = 32
    embedding_steps: int = 0
    phantom_scans: int = 1500
    phantom_pixels: int = 64
    phantom_train_minutes: float = 1.2
    phantom_per_class: int = 200
    latent_pixels: tuple[int, ...] = (256, 512)
    latent_batch: int = 32
    joined_steps: int = 60
    profiled: int = 3


REAL = Sizes()
REHEARSAL = Sizes(
    train_pixels=(16,),
    network="small",
    layers={"channels": (8, 16), "num_head_channels": 8, "num_norm_groups": 8},
    compiler="eager",
    batch=8,
    launch_bound=(16, 4),
    step_seconds=0.02,
    rounds=1,
    ceiling_sides=(128,),
    ceiling_seconds=0.02,
    curve_steps=6,
    sample_pixels=(16,),
    sample_batch=4,
    sample_steps=2,
    search=(64, 16, 8),
    search_pixels=16,
    embedding_steps=4,
    phantom_scans=120,
    phantom_pixels=16,
    phantom_train_minutes=0.02,
    phantom_per_class=4,
    latent_pixels=(32,),
    latent_batch=4,
    joined_steps=12,
    profiled=1,
)
