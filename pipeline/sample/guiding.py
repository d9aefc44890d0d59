"""Creates the guidance of `models.diffusion` from settings and checkpoint."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.artifacts.checkpoint import CheckpointInfo, load_denoiser
from pipeline.errors import DataError, UsageError
from pipeline.sample.settings import SampleSettings

if TYPE_CHECKING:
    from models.diffusion.denoiser import Denoiser
    from models.diffusion.guidance import Guidance


def check_guidance(info: CheckpointInfo, settings: SampleSettings) -> None:
    """Check, from the checkpoint's description alone, that the guidance of the settings is possible.

    Raises:
        UsageError: the checkpoint has no class of this name.
        DataError: the checkpoint has no snapshots.
    """
    name = settings.guidance_away_from
    if name is not None and name not in info.classes:
        raise UsageError(
            "the checkpoint knows no such class",
            field="sample.guidance_away_from",
            value=name,
            remedy=f"Choose from {list(info.classes)}.",
        )
    if settings.autoguide is not None:
        weaker_step(info, settings.autoguide)
    if settings.ema_length not in {None, info.ema_length} and not info.snapshots:
        raise DataError(
            "the checkpoint has no snapshots to compute another average from",
            field="sample.ema_length",
            value=settings.ema_length,
            remedy="Remove it, or train again with train.ema_snapshots above 0.",
        )


def make_guidance(
    checkpoint: Path, info: CheckpointInfo, denoiser: Denoiser, settings: SampleSettings
) -> Guidance:
    """Return the guidance of the settings, which must have passed `check_guidance`.

    Args:
        checkpoint: the checkpoint directory.
        info: description of the verified checkpoint.
        denoiser: denoiser of the checkpoint.
        settings: sample settings.

    Raises:
        DataError: the snapshot of the weaker model cannot be used.
    """
    import torch

    from models.diffusion.guidance import Guidance

    away_from, guide = None, None
    if settings.guidance_away_from is not None:
        label = info.classes.index(settings.guidance_away_from)
        away_from = denoiser.expand(torch.tensor([label]))[0]
    if settings.autoguide is not None:
        step = weaker_step(info, settings.autoguide)
        guide, _ = load_denoiser(checkpoint, verified=info, ema_length=min(info.ema_lengths), step=step)
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
            remedy="Remove it, or train again with train.ema_snapshots above 1.",
        )
    return min(earlier, key=lambda step: abs(step - share * last))
