"""How candidates are guided: from settings and checkpoint to the guidance of `models/guidance.py`."""

from __future__ import annotations

import math
from pathlib import Path

import torch

from models.denoiser import Denoiser
from models.guidance import Guidance
from pipeline.errors import DataError, UsageError
from pipeline.generator import CheckpointInfo, load_denoiser
from pipeline.sample.settings import SampleSettings


def make_guidance(
    checkpoint: Path, info: CheckpointInfo, denoiser: Denoiser, settings: SampleSettings
) -> Guidance:
    """Return the guidance that the settings ask for.

    Args:
        checkpoint: the checkpoint directory.
        info: its description.
        denoiser: its denoiser.
        settings: sample settings.

    Raises:
        UsageError: the checkpoint knows no class of that name.
        DataError: the checkpoint has no snapshot of a weaker model, or one that cannot be used.
    """
    away_from = None
    if settings.guidance_away_from is not None:
        away_from = _codes_of(settings.guidance_away_from, info, denoiser)
    guide = None
    if settings.autoguide is not None:
        step = weaker_step(info, settings.autoguide)
        guide, _ = load_denoiser(checkpoint, ema_length=min(info.ema_lengths), step=step)
    return Guidance(
        scale=settings.guidance_scale,
        low=settings.guidance_low,
        high=math.inf if settings.guidance_high is None else settings.guidance_high,
        away_from=away_from,
        guide=guide,
    )


def weaker_step(info: CheckpointInfo, share: float) -> int:
    """Return the step of the snapshot closest to a share of the training, earlier than the model's own.

    Raises:
        DataError: there is no such snapshot.
    """
    last = info.ema_step or info.num_steps
    earlier = [step for step in info.snapshots if step < last]
    if not earlier or not info.ema_lengths:
        raise DataError(
            "the checkpoint has no snapshots, so there is no weaker model to guide with",
            field="sample.autoguide",
            value=share,
            remedy="Leave it out, or train again with train.ema_snapshots above 1.",
        )
    return min(earlier, key=lambda step: abs(step - share * last))


def _codes_of(name: str, info: CheckpointInfo, denoiser: Denoiser) -> torch.Tensor:
    if name not in info.classes:
        raise UsageError(
            "the checkpoint knows no such class",
            field="sample.guidance_away_from",
            value=name,
            remedy=f"Choose from {list(info.classes)}.",
        )
    return denoiser.expand(torch.tensor([info.classes.index(name)]))[0]
