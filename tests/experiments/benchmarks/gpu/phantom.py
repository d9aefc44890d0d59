"""Part f: a whole run on phantom images through the stage functions, to a release that the gate let pass."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator

import numpy as np

from pipeline.errors import PhosphorError
from pipeline.ingest.reading.geometry import to_square
from pipeline.phantom import CLASSES, render_phantom
from pipeline.privacy import run_audit
from pipeline.recipe import load_recipe
from pipeline.records import CohortRef, Policy
from pipeline.release.settings import ReleaseSettings
from pipeline.release.stage import run_release
from pipeline.sample import run_sample
from pipeline.train import run_train
from tests.cohorts import write_cohort
from tests.experiments.benchmarks.gpu import loops
from tests.experiments.benchmarks.gpu.job import NO_TIME, Job
from tests.experiments.benchmarks.gpu.search import audit_settings
from tests.experiments.benchmarks.gpu.sizes import Sizes
from tests.experiments.benchmarks.rows import Row, Skipped

MINUTES_GOAL = 3.0
SHOWN = tuple(sorted(CLASSES[:2]))
SMALLEST_PHANTOM = 32
PICTURE = "phantom.png"
SEED = 11


def run(job: Job) -> Iterator[Row | Skipped]:
    """Go from rendered scans to a release; the picture of what was released lands beside the report."""
    sizes, started = job.sizes, time.perf_counter()
    if not job.has(60.0 * sizes.phantom_train_minutes):
        yield Skipped("phantom run to a gated release", NO_TIME)
        return
    took: dict[str, float] = {}
    cohort = _cohort(job, sizes)
    took["scans"] = time.perf_counter() - started
    recipe = load_recipe("gpu")
    settings = loops.recipe_settings(
        sizes, sizes.phantom_pixels, batch_size=min(128, sizes.batch), augment=recipe.train.augment
    ).model_copy(update={"max_minutes": sizes.phantom_train_minutes, "num_steps": recipe.train.num_steps})
    checkpoint = run_train(cohort, job.scratch / "checkpoint", settings, seed=SEED)
    took["train"] = time.perf_counter() - started - sum(took.values())
    sampling = recipe.sample.model_copy(update={"per_class": sizes.phantom_per_class})
    candidates = run_sample(checkpoint, job.scratch / "candidates", sampling, seed=SEED)
    took["sample"] = time.perf_counter() - started - sum(took.values())
    audit = run_audit(
        candidates.path,
        cohort.path,
        job.scratch / "audit",
        audit_settings(recipe.audit, sizes),
        seed=SEED,
        checkpoint=checkpoint.path,
    )
    took["audit"] = time.perf_counter() - started - sum(took.values())
    released, words = 0, f"verdict {audit.verdict}"
    try:
        release = run_release(
            candidates.path,
            audit.path,
            job.scratch / "release",
            ReleaseSettings(policy=Policy.RESEARCH),
            seed=SEED,
        )
    except PhosphorError as refusal:
        words += f": {refusal}"
    else:
        released = release.counts.get("images", 0)
        shutil.copyfile(release.path / "preview.png", job.out / PICTURE)
    took["release"] = time.perf_counter() - started - sum(took.values())
    parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in took.items())
    images = checkpoint.counts.get("images", 0)
    detail = f"{words}; {released} images released; {images:,} images shown in training; {parts}"
    minutes = sum(took.values()) / 60
    yield Row("phantom run to a gated release", (minutes,), MINUTES_GOAL, False, detail, "min")
    yield Row("phantom images released", (float(released),), 1, True, words)


def _cohort(job: Job, sizes: Sizes) -> CohortRef:
    """Render a phantom cohort of two classes, two images a patient, straight into the cohort's layout."""
    size, labels = sizes.phantom_pixels, (np.arange(sizes.phantom_scans) // 2) % len(SHOWN)
    pixels = []
    for place, label in enumerate(labels):
        scan = render_phantom(place // 2, SHOWN[label], max(size, SMALLEST_PHANTOM), place % 2)
        limits = (float(scan.min()), float(max(scan.max(), scan.min() + 1)))
        pixels.append(to_square(scan, size, fit="pad", pixel_aspect=1.0, black_white=limits, bit_depth=8))
    return write_cohort(
        job.scratch / "cohort",
        pixels=np.stack(pixels)[:, None].astype(np.uint8),
        labels=labels,
        classes=SHOWN,
        seed=SEED,
    )
