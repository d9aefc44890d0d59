"""The cohort's copy-detection embedding: trained once on train images and cached with the cohort."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import NamedTuple

import torch

from models.devices import default_device, to_device
from models.privacy.copy_embedding import CopyEmbedding, copies_in_pairs, train_on_pairs
from models.privacy.matching import flat_field
from pipeline.artifacts.cohort import Cohort
from pipeline.cost.time_budget import TimeBudget
from pipeline.privacy.search.references import References
from pipeline.privacy.settings import AuditSettings
from pipeline.progress import track
from pipeline.storage import atomic_path, digest_of

logger = logging.getLogger(__name__)

EMBEDDING_VERSION = 2
"""Also stands for the constants below, which every embedding is trained with."""
LEARNING_RATE, TEMPERATURE = 3e-3, 0.1
"""Peak learning rate, and temperature of the contrastive loss."""
_SEED = 0
"""Seed of the embedding, separate from the run's seed: a cohort has one embedding."""
_DETERMINED_BY = ("search_size", "embedding_steps", "embedding_batch", "max_minutes")
_STEPS = "num_steps"


class TrainedEmbedding(NamedTuple):
    """The embedding, in evaluation mode, and the number of optimiser steps of its training."""

    network: CopyEmbedding
    num_steps: int


def cohort_embedding(cohort: Cohort, references: References, settings: AuditSettings) -> TrainedEmbedding:
    """Load the embedding for these settings, or train and cache it.

    Args:
        cohort: cohort whose `derived` folder (private, outside the digest) holds the weights.
        references: real images; only the train images are used.
        settings: `embedding_*` and search size. Together with the cohort they determine the weights, unless
            `max_minutes` ends the training early.
    """
    from safetensors.torch import save_file

    own = {name: getattr(settings, name) for name in _DETERMINED_BY}
    key = digest_of({**own, "cohort": cohort.digest, "version": EMBEDDING_VERSION})
    path = cohort.derived_path(f"copy-embedding-{key[:16]}.safetensors")
    if path.is_file():
        try:
            return _load(str(path))
        except Exception as error:  # a damaged cache can raise anything; training again repairs it
            logger.warning("the saved copy embedding is damaged (%s): training again", type(error).__name__)
    images = references.images[torch.from_numpy(references.in_train)]
    with track("copy embedding", settings.embedding_steps, unit="steps") as progress:

        def on_step(_step: int, loss: float, planned: int) -> None:
            progress.set_total(planned)
            progress.update(1, loss=loss)

        trained = train_embedding(images, settings, on_step)
    with atomic_path(path, private=True) as temporary:
        save_file(trained.network.state_dict(), temporary, {_STEPS: str(trained.num_steps)})
    return trained


def train_embedding(
    images: torch.Tensor,
    settings: AuditSettings,
    on_step: Callable[[int, float, int], None] | None = None,
) -> TrainedEmbedding:
    """Train the embedding on train images.

    It is trained on the accelerator if there is one, with the same random draws as on the CPU. The result is
    on the CPU.

    Args:
        images: (n, 1, h, w) train images in [-1, 1].
        settings: settings of the audit.
        on_step: called with (step, loss, currently planned number of steps).
    """
    generator, device = torch.Generator().manual_seed(_SEED), default_device()
    budget: TimeBudget | None = None
    if settings.half_seconds is not None:
        budget = TimeBudget(settings.half_seconds, settings.embedding_steps)
    started, done = time.monotonic(), 0

    def after(step: int, loss: float) -> int | None:
        nonlocal done
        done = step + 1
        decided = None if budget is None else budget.review(done, time.monotonic() - started)
        if on_step is not None:
            on_step(step, loss, settings.embedding_steps if budget is None else budget.num_steps)
        return None if decided is None else decided[1]

    network = train_on_pairs(
        copies_in_pairs(to_device(images, device), settings.embedding_batch, generator),
        lambda batch: flat_field(batch, sigma=settings.flat_field_sigma),
        num_steps=settings.embedding_steps,
        learning_rate=LEARNING_RATE,
        temperature=TEMPERATURE,
        generator=generator,
        on_step=after,
        device=device,
    )
    return TrainedEmbedding(network.cpu(), done)


def _load(path: str) -> TrainedEmbedding:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as stored:
        network = CopyEmbedding()
        network.load_state_dict({name: stored.get_tensor(name) for name in stored.keys()})  # noqa: SIM118
        return TrainedEmbedding(network.eval(), int(stored.metadata()[_STEPS]))
