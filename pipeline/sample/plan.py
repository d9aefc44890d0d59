"""Plan and cost estimate of sampling, from the measured time of one batch of denoise calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from models.latent.autoencoder_spec import AutoencoderSpec
from pipeline.cost.estimate import (
    TABLE_BYTES_A_ROW,
    Cost,
    Foreseen,
    Given,
    StagePlan,
    known_digest,
    outlook_of,
)
from pipeline.cost.network import denoise_pace
from pipeline.cost.pacing import pace_of
from pipeline.records import CandidatesRef, CheckpointRef
from pipeline.sample.settings import SampleSettings
from pipeline.stage import StageInputs


def plan_sample(
    checkpoint: Given[CheckpointRef],
    settings: SampleSettings,
    *,
    seed: int,
    classes: Sequence[str] | None = None,
) -> StagePlan[CandidatesRef]:
    """Return the plan of `run_sample` with these arguments.

    Raises:
        DataError: the checkpoint is not a finished output.
    """
    inputs = {"checkpoint": known_digest(CheckpointRef, checkpoint)}
    if classes is not None:
        inputs["classes"] = ",".join(classes)

    def foresee() -> Foreseen:
        known = outlook_of(checkpoint)
        drawn = known.work.num_classes if classes is None else len(classes)
        return replace(
            known,
            num_images=drawn * settings.candidates_per_class,
            num_asked=drawn * settings.per_class,
        )

    return StagePlan(
        StageInputs(CandidatesRef, inputs, settings, seed),
        estimate=lambda: estimate_sample(settings, foresee()),
        foresee=foresee,
    )


def estimate_sample(settings: SampleSettings, drawn: Foreseen) -> Cost:
    """Estimate the cost of sampling: number of batches x denoise calls per batch x time per call."""
    from models.samplers import SAMPLERS

    assert drawn.network is not None
    entry = SAMPLERS[settings.sampler]
    calls = entry.num_passes(settings.num_steps or entry.recommended_steps)
    calls *= 2 if settings.guidance_scale != 1.0 else 1
    pace = denoise_pace(drawn.network, settings.batch_size)
    seconds = -(-drawn.num_images // settings.batch_size) * calls * pace.seconds + 1.0
    if drawn.network.autoencoder is not None:
        seconds += drawn.num_images * decode_seconds(drawn.network.autoencoder)
    return Cost.here(
        seconds,
        disk_bytes=drawn.num_images * (drawn.work.image_bytes + TABLE_BYTES_A_ROW),
        device_bytes=pace.device_bytes,
    )


def decode_seconds(spec: AutoencoderSpec) -> float:
    """Measure the seconds that decoding the latent of one image takes."""
    import torch

    from models.devices import default_device
    from models.latent.autoencoder import BLOCK_SIZE, Autoencoder, freeze_autoencoder

    device = default_device()
    frozen = freeze_autoencoder(Autoencoder(spec).to(device))
    latents = torch.zeros(BLOCK_SIZE, spec.latent_channels, *spec.latent_size, device=device)
    return pace_of(lambda count: frozen.to_images(latents[:count]), BLOCK_SIZE).seconds / BLOCK_SIZE
