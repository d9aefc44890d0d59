"""Part e: the gate's search and embedding over their arithmetic, and the size of its products."""

from __future__ import annotations

import time
from collections.abc import Iterator

import torch

from models.devices import choices, default_device
from pipeline.privacy.settings import AuditSettings
from tests.experiments.benchmarks import gate
from tests.experiments.benchmarks.gpu import loops
from tests.experiments.benchmarks.gpu.job import NO_TIME, Job
from tests.experiments.benchmarks.gpu.sizes import Sizes
from tests.experiments.benchmarks.machine import matrix_product_rate
from tests.experiments.benchmarks.rows import Row, Skipped

GOAL = 2.0


def audit_settings(settings: AuditSettings, sizes: Sizes) -> AuditSettings:
    """Return settings of an audit with the proof's embedding."""
    steps = sizes.embedding_steps or settings.embedding_steps
    return settings.model_copy(update={"embedding_steps": steps})


def run(job: Job) -> Iterator[Row | Skipped]:
    """Search once to warm up and then in rounds; afterwards with products of other sizes."""
    sizes = job.sizes
    train, holdout, candidates = sizes.search
    rate = matrix_product_rate("float32", sizes.ceiling_sides, sizes.ceiling_seconds)
    settings = audit_settings(AuditSettings(search_size=sizes.search_pixels), sizes)
    found = gate.search_rows(
        train, holdout, candidates, sizes.search_pixels, sizes.rounds, settings, rate=rate, warm_up=True
    )
    for row in found:
        goal = GOAL if row.name == gate.OVER_ARITHMETIC else None
        yield Row(row.name, row.ratios, goal, row.at_least, row.detail, row.unit)
    usual = choices(default_device()).entries_at_once
    for entries in (usual // 8, usual * 8):
        if not job.has(10.0):
            yield Skipped(f"choice: {entries} entries of a product at once", NO_TIME)
            continue
        with loops.chosen(entries_at_once=entries):
            started = time.perf_counter()
            rows = gate.search_rows(train, holdout, candidates, sizes.search_pixels, 1, settings, rate=rate)
            over = next(row for row in rows if row.name == gate.OVER_ARITHMETIC)
        name = f"choice: {entries} entries of a product at once (usually {usual}): search over its arithmetic"
        words = f"{time.perf_counter() - started:.1f} s with its embedding; {over.detail}"
        yield Row(name, over.ratios, None, False, words)
    if torch.cuda.is_available():
        allocated, reserved = loops.peak_memory()
        words = f"{reserved:.1f} GiB reserved"
        yield Row("search, peak memory of tensors", (allocated,), None, False, words, "GiB")
