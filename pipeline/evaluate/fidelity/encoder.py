"""The cohort's feature encoder: trained once on the real train split and cached with the cohort."""

from __future__ import annotations

import logging

import torch

from models.checkpoint import read_tensors, write_tensors
from models.devices import computing, default_device
from models.evaluation.classifier import SmallCNN
from models.evaluation.features import FeatureEncoder, encoder_from_tensors, encoder_tensors, fit_encoder
from models.evaluation.training import ClassifierTraining, TrainingPart, train_classifier
from pipeline.artifacts.cohort import Cohort
from pipeline.distributed.cpu_threads import threads
from pipeline.errors import DataError
from pipeline.evaluate.settings import EvaluateSettings
from pipeline.progress import track
from pipeline.storage import digest_of

logger = logging.getLogger(__name__)

ENCODER_VERSION = 2
MAX_TRAINING_SCANS = 20_000
SEED = 0
"""The same for every run, so that their distances compare."""


def extractor(encoder: FeatureEncoder) -> str:
    """Return in words what the features are."""
    return (
        "small CNN trained on the cohort's train split, pooled outputs of its "
        f"{len(encoder.network.widths)} stages ({encoder.num_features} features)"
    )


def cohort_encoder(cohort: Cohort, settings: EvaluateSettings) -> FeatureEncoder:
    """Return the cohort's encoder, from the cache if it was trained before with the same settings.

    It is trained to predict the cohort's classes or, if there is only one, how an image was flipped.

    Raises:
        DataError: fewer than 2 train scans.
    """
    description = {
        "version": ENCODER_VERSION,
        "cohort": cohort.digest,
        "seed": SEED,
        "num_steps": settings.encoder_steps,
    }
    try:
        path = cohort.derived_path(f"encoder-{digest_of(description)[:16]}.safetensors")
    except OSError:
        path = None  # a cohort on read-only storage: the encoder is not cached
    if path is not None:
        try:
            found = read_tensors(path)
            if found.metadata == description:
                return encoder_from_tensors(found.tensors)
        except (OSError, ValueError):
            pass
    encoder = _train(cohort, settings)
    if path is not None:
        try:
            write_tensors(path, encoder_tensors(encoder), description)
        except OSError:
            logger.warning("the feature encoder could not be cached beside the cohort")
    return encoder


def _train(cohort: Cohort, settings: EvaluateSettings) -> FeatureEncoder:
    generator = torch.Generator().manual_seed(SEED)
    rows = torch.from_numpy(cohort.rows("train"))
    if len(rows) < 2:
        raise DataError(
            "needs at least 2 train scans to train a feature encoder",
            field="cohort",
            value=len(rows),
            remedy="Ingest more scans.",
        )
    chosen = rows[torch.randperm(len(rows), generator=generator)[:MAX_TRAINING_SCANS]].sort().values.numpy()
    real = torch.from_numpy(cohort.take(chosen))
    images = real
    labels = torch.from_numpy(cohort.labels[chosen].astype("int64"))
    num_classes = len(cohort.info.classes)
    if len(labels.unique()) < 2:
        images = torch.cat([real, real.flip(-1), real.flip(-2), real.flip(-1, -2)])
        labels, num_classes = torch.arange(4).repeat_interleave(len(real)), 4
    device = default_device()
    with (
        threads(1),
        computing(device),
        track("feature encoder", settings.encoder_steps, unit="steps") as progress,
    ):
        network = train_classifier(
            [TrainingPart(images, labels)],
            num_classes=num_classes,
            seed=SEED,
            training=ClassifierTraining(num_steps=settings.encoder_steps),
            device=device,
            on_step=lambda _: progress.update(1),
        ).network
        assert isinstance(network, SmallCNN)
        # On the CPU from here on: features must not depend on other work of the accelerator.
        return fit_encoder(network.to("cpu"), real)
