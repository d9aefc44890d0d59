"""The tests of a whole set: they pass sets without copies and find one copy in a hundred.

`python -m tests.experiments.privacy_proof.dataset [MANIFEST] [OUT] [size=28] [draws=200] [power_draws=50]
checkpoint=DIR candidates=DIR` offers the real holdout as if it were synthetic, as it is, blurred, and noised
and denoised by the model, each scan without its own patient's. Then it plants copies of train scans, 1 % of
2,000 and 2 % of 500, among the candidates of a healthy model.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from pipeline.arrays import Ints
from pipeline.artifacts.checkpoint import load_denoiser
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.pixels import from_model_range
from pipeline.privacy.audited_set import open_audited
from pipeline.privacy.gate.planted_copies import POWER_KINDS, disguise
from pipeline.privacy.search.references import search_images, shrink
from pipeline.privacy.search.views import Found, join_found
from tests.experiments.privacy_proof.command import called
from tests.experiments.privacy_proof.recall import image_to_image
from tests.experiments.privacy_proof.set_tests import SetTests
from tests.experiments.privacy_proof.shares import head, tell

LEAST_PASSING, LEAST_FOUND = 0.95, 0.9
SETS = ((2_000, 0), (2_000, 20), (500, 10))
"""Size of a set, and how many of it are copies."""
BLURS = ("blurred", "blurred_twice")
NOISES = (0.25, 0.5)


def main() -> int:
    """Print both tables; the exit code is 1 where a goal is not met."""
    call = called(("draws", "power_draws", "checkpoint", "candidates"))
    recipe = call.recipe()
    cohort = Cohort(call.cohort(recipe).path)
    tests = SetTests(cohort, recipe.audit)
    print(f"{call.words}, {tests.references.counts()}", flush=True)
    print(head("offered as synthetic", "passes"))
    rng, met = np.random.default_rng(5), True
    draws = call.number("draws", 200)
    held = np.flatnonzero(~tests.references.in_train)
    labels = tests.references.labels[held]
    for name, images in _holdout(cohort, tests, held, call.text("checkpoint")):
        found = tests.views.search(images, tests.references.patients[held])
        met &= tell(name, draws - tests.failing_halves(found, labels, draws, rng), draws, LEAST_PASSING)

    print(head("planted among candidates", "found"))
    draws = call.number("power_draws", 50)
    audited = open_audited(Path(call.text("candidates")), cohort)
    codes = audited.table["label"].to_numpy().astype(np.int64)
    candidates = tests.views.search(
        search_images(audited.take, np.arange(len(codes)), recipe.audit.search_size)
    )
    most = max(count for _, count in SETS)
    copies, sources = _copies(tests, most * draws, rng)
    for size, count in SETS:
        detected = 0
        for draw in range(draws):
            own = rng.integers(len(codes), size=size - count)
            planted = slice(draw * most, draw * most + count)
            found = join_found([candidates.take(own), copies.take(planted)])
            detected += tests.fails(found, np.concatenate([codes[own], sources[planted]]))
        name = f"{count} copies of {size:,}" if count else f"nothing, {size:,}"
        met &= tell(name, detected, draws, LEAST_FOUND if count else None)
    return 0 if met else 1


def _holdout(
    cohort: Cohort, tests: SetTests, held: Ints, checkpoint: str
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the holdout (n, 1, h, w) as it is, blurred, and denoised by a model."""
    images = tests.references.images[torch.from_numpy(held)]
    yield "holdout", images
    for kind in BLURS:
        yield f"holdout, {kind.replace('_', ' ')}", disguise(images, kind, torch.Generator().manual_seed(0))
    denoiser, info = load_denoiser(Path(checkpoint), cohort.digest)
    whole = torch.from_numpy(cohort.images(tests.references.rows[held]))
    labels = torch.from_numpy(tests.references.labels[held])
    for sigma in NOISES:
        drawn = image_to_image(denoiser, whole, labels, sigma).numpy()
        made = shrink(from_model_range(drawn, info.bit_depth), max(images.shape[-2:]))
        yield f"holdout, denoised from sigma {sigma}", made


def _copies(tests: SetTests, count: int, rng: np.random.Generator) -> tuple[Found, Ints]:
    """Return what is found about copies of train in the plain disguises, and their classes."""
    rows = rng.choice(np.flatnonzero(tests.references.in_train), count)
    kinds = rng.integers(len(POWER_KINDS), size=count)
    images = torch.empty(count, *tests.references.images.shape[1:])
    generator = torch.Generator().manual_seed(3)
    for number, kind in enumerate(POWER_KINDS):
        own = np.flatnonzero(kinds == number)
        sources = tests.references.images[torch.from_numpy(rows[own])]
        images[torch.from_numpy(own)] = disguise(sources, kind, generator)
    return tests.views.search(images), tests.references.labels[rows]


if __name__ == "__main__":
    sys.exit(main())
