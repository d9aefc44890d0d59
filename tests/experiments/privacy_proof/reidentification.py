"""Whether another scan of the same patient can be told at this size: what a view of patients would rest on.

`python -m tests.experiments.privacy_proof.reidentification [MANIFEST] [OUT] [size=28] [pair_steps=600]
[width=32]` takes one scan of each holdout patient who has several and looks for the nearest among all others
of train and
holdout: by correlation, by the gate's copy embedding trained at this size, and by an embedding of the same
kind that was trained on pairs of scans of one train patient (after Packhaeuser et al. 2022,
doi 10.1038/s41598-022-19045-3). Printed is how often that scan, or one of the ten nearest, is of the same
patient. There is no goal.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from models.diffusion.augment import augment, draw_augmentation
from models.privacy.copy_embedding import CopyEmbedding, train_on_pairs
from models.privacy.matching import Alignments, coarse_similarity, flat_field
from pipeline.arrays import Bools, Ints
from pipeline.artifacts.cohort import Cohort
from pipeline.privacy.search.embedding_cache import LEARNING_RATE, TEMPERATURE, cohort_embedding
from pipeline.privacy.search.references import References, load_references
from pipeline.privacy.search.views import embed_flat
from pipeline.privacy.settings import AuditSettings
from pipeline.progress import track
from tests.experiments.privacy_proof.command import called
from tests.experiments.privacy_proof.shares import head, tell

NEAREST = (1, 10)
PAIRS, DIMENSION = 256, 128
ALTERED, NOISE = 0.8, 0.05
"""How often each kind of alteration is applied to a scan of a pair, and the noise added, in a range of 2."""


def main() -> int:
    """Print the table; the exit code is 0."""
    call = called(("pair_steps", "width"))
    recipe = call.recipe()
    cohort = Cohort(call.cohort(recipe).path)
    settings = at_size(recipe.audit, call.size)
    references = load_references(cohort, settings, np.random.default_rng([0, 1]))
    queries = one_scan_each(references, np.random.default_rng(0))
    images, patients = references.images, references.patients
    print(f"{call.words}, {references.counts()}", flush=True)
    if not len(queries):
        raise SystemExit("no patient of the holdout has several scans")

    copies = embed_flat(cohort_embedding(cohort, references, settings).network, images, settings)
    network, pairs = patient_embedding(
        references, settings, steps=call.number("pair_steps", 600), width=call.number("width", 32)
    )
    own = embed_flat(network, images, settings)
    reach = settings.max_shift
    shifted = Alignments(reach, scales=(1.0,), rotations=(0.0,), flip=False, sigma=settings.flat_field_sigma)
    similarities = {
        "correlation": torch.cat([part for _, part in coarse_similarity(images[queries], images, shifted)]),
        "copy embedding": copies[queries] @ copies.T,
        f"embedding of patients ({pairs} with several scans)": own[queries] @ own.T,
    }
    again = shown_again(images, queries)
    same = (patients[queries][:, None] == patients[None, :]) & ~again
    chance = float((same.sum(axis=1) / (~again).sum(axis=1)).mean())
    print(f"{len(queries)} scans among {len(patients)}; by chance the nearest is theirs in {chance:.2%}")
    print(head("nearest by", "of the same patient"))
    for name, similarity in similarities.items():
        for count in NEAREST:
            hits = int(found(similarity, again, same, count).sum())
            tell(f"{name}, {count} nearest", hits, len(queries), None)
    return 0


def at_size(settings: AuditSettings, size: int) -> AuditSettings:
    """Return the settings of a search that sees all of images of this size: blur and shifts grow with it."""
    scale = max(1.0, size / settings.search_size)
    return settings.model_copy(
        update={
            "search_size": max(size, settings.search_size),
            "max_shift": round(settings.max_shift * scale),
        }
    )


def one_scan_each(references: References, rng: np.random.Generator) -> Ints:
    """Return a scan (n,) of each holdout patient who has several different ones there."""
    held = rng.permutation(np.flatnonzero(~references.in_train))
    chosen = []
    for patient in np.unique(references.patients[held]):
        rows = held[references.patients[held] == patient]
        if len({references.images[row].numpy().tobytes() for row in rows}) > 1:
            chosen.append(rows[0])
    return np.array(chosen, dtype=np.int64)


def shown_again(images: torch.Tensor, queries: Ints) -> Bools:
    """Return (n, M) which images are the query itself, or the same pixels once more."""
    return np.stack([(images == images[row]).flatten(1).all(dim=1).numpy() for row in queries])


def found(similarity: torch.Tensor, again: Bools, same: Bools, count: int) -> Bools:
    """Return (n,) whether one of the `count` nearest is of the query's patient.

    Args:
        similarity: (n, M) of the queries with all images.
        again: (n, M) which of them are left out; same: (n, M) which are of the query's patient.
        count: nearest ones that are looked at.
    """
    left = similarity.masked_fill(torch.from_numpy(again), -2.0)
    nearest = left.topk(count, dim=1).indices.numpy()
    return same[np.arange(len(nearest))[:, None], nearest].any(axis=1)


def patient_embedding(
    references: References, settings: AuditSettings, *, steps: int, width: int
) -> tuple[CopyEmbedding, int]:
    """Train an embedding in which two scans of one train patient lie near; return also their number."""
    trained = np.flatnonzero(references.in_train)
    several = [
        rows
        for patient in np.unique(references.patients[trained])
        if len(rows := trained[references.patients[trained] == patient]) > 1
    ]
    rng, generator = np.random.default_rng(0), torch.Generator().manual_seed(0)

    def two_scans() -> tuple[torch.Tensor, torch.Tensor]:
        chosen = rng.permutation(len(several))[:PAIRS]
        rows = np.array([rng.permutation(several[place])[:2] for place in chosen])
        scans = slightly_altered(references.images[torch.from_numpy(rows.T.ravel())], generator)
        first, second = scans.chunk(2)
        return first, second

    with track("embedding of patients", steps, unit="steps") as progress:
        network = train_on_pairs(
            two_scans,
            lambda batch: flat_field(batch, sigma=settings.flat_field_sigma),
            num_steps=steps,
            learning_rate=LEARNING_RATE,
            temperature=TEMPERATURE,
            generator=generator,
            on_step=lambda _, loss: progress.update(1, loss=loss),
            dimension=DIMENSION,
            width=width,
        )
    return network, len(several)


def slightly_altered(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Turn, zoom, stretch and shift (n, 1, h, w) images in [-1, 1] a little, and add noise."""
    altered = augment(images, draw_augmentation(len(images), ALTERED, generator))
    return altered + NOISE * torch.randn(altered.shape, generator=generator)


if __name__ == "__main__":
    sys.exit(main())
