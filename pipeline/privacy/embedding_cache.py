"""The cohort's copy-detection embedding: trained once on train images, kept beside the cohort."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from models.copy_embedding import CopyEmbedding, copies_in_pairs, train_on_pairs
from models.devices import default_device, to_device
from models.matching import flat_field
from pipeline.cohort import Cohort
from pipeline.privacy.references import References
from pipeline.privacy.settings import AuditSettings
from pipeline.progress import track
from pipeline.storage import atomic_path, digest_of

logger = logging.getLogger(__name__)

EMBEDDING_VERSION = 1


def cohort_embedding(cohort: Cohort, references: References, settings: AuditSettings) -> CopyEmbedding:
    """Load the embedding for these settings, or train and keep it.

    Args:
        cohort: whose `derived` folder (private, outside the digest) holds the weights.
        references: only the train images are used.
        settings: `embedding_*`, search size and flat-fielding; with the cohort they determine the weights.
    """
    from safetensors.torch import load_file, save_file

    key = digest_of({**settings.embedding_key(), "cohort": cohort.digest, "version": EMBEDDING_VERSION})
    path = cohort.derived_path(f"copy-embedding-{key[:16]}.safetensors")
    if path.is_file():
        network = CopyEmbedding()
        try:
            network.load_state_dict(load_file(path))
            return network.eval()
        except Exception as error:  # whatever a damaged cache raises, training again mends it
            logger.warning("the kept copy embedding is damaged (%s): training it again", type(error).__name__)
    images = references.images[torch.from_numpy(references.in_train)]
    with track("copy embedding", settings.embedding_steps, unit="steps") as progress:
        network = train_embedding(images, settings, lambda _, loss: progress.update(1, loss=loss))
    with atomic_path(path, private=True) as temporary:
        save_file(network.state_dict(), temporary)
    return network


def train_embedding(
    images: torch.Tensor, settings: AuditSettings, on_step: Callable[[int, float], None] | None = None
) -> CopyEmbedding:
    """Train the embedding that the settings determine on train images (n, 1, h, w) in [-1, 1].

    It is trained on the accelerator if there is one, from the same draws as on the CPU, and lies on the CPU.
    """
    generator, device = torch.Generator().manual_seed(settings.embedding_seed), default_device()
    network = train_on_pairs(
        copies_in_pairs(to_device(images, device), settings.embedding_batch, generator),
        lambda batch: flat_field(batch, sigma=settings.flat_field_sigma),
        num_steps=settings.embedding_steps,
        learning_rate=settings.embedding_learning_rate,
        temperature=settings.embedding_temperature,
        generator=generator,
        on_step=on_step,
        device=device,
    )
    return network.cpu()
