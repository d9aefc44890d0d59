"""The privacy gate's search: its time over the same arithmetic at the machine's own rate, and in all."""

from __future__ import annotations

import time

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from models.devices import computing, default_device, synchronise
from models.optim.allocator import held_memory
from pipeline.privacy.search.embedding_cache import train_embedding
from pipeline.privacy.search.neighbours import NO_PATIENT, Sides, nearest_features
from pipeline.privacy.search.references import References
from pipeline.privacy.search.views import Views
from pipeline.privacy.settings import AuditSettings
from tests.experiments.benchmarks.machine import in_own_process, matrix_product_rate, peak_bytes
from tests.experiments.benchmarks.rows import Row

BOUND_GOAL, MINUTES_GOAL, MEMORY_GOAL, LINEAR_GOAL = 1.5, 3.0, 2.0, 1.1
OVER_ARITHMETIC = "gate: search over its arithmetic at the ceiling"
DIMENSIONS, FOLDS = 256, 8
COUNTED = 128


def measure(
    train: int = 4708,
    holdout: int = 624,
    candidates: int = 5000,
    size: int = 32,
    rounds: int = 1,
    features: int = 100_000,
) -> list[Row]:
    """Search drawn images of these numbers and this size in all views, embedding included.

    Args:
        train: train images; holdout: images of the control; two a patient.
        candidates: images searched for.
        size: height and width in pixels.
        rounds: how often all is repeated.
        features: simulated features searched for, and searched through, for the memory.
    """
    settings = AuditSettings(search_size=max(16, size))
    return [*search_rows(train, holdout, candidates, size, rounds, settings), *_features(features)]


def search_rows(
    train: int,
    holdout: int,
    candidates: int,
    size: int,
    rounds: int,
    settings: AuditSettings,
    *,
    rate: float = 0.0,
    warm_up: bool = False,
) -> list[Row]:
    """Return the rows of the search alone.

    Args:
        train, holdout, candidates, size, rounds: as of `measure`.
        settings: of the audit.
        rate: FLOP/s of fp32 products here; 0 measures it.
        warm_up: leave a first search out, in which libraries load.
    """
    device = default_device()
    ratios, minutes = [], []
    with held_memory(), computing(device):  # as the audit does
        rate = rate or matrix_product_rate("float32")
        for number in range(rounds):
            references = _references(train, holdout, size, np.random.default_rng(number))
            queries = _images(candidates, size, np.random.default_rng(1000 + number))
            started = time.perf_counter()
            network = train_embedding(
                references.images[torch.from_numpy(references.in_train)], settings
            ).network
            views = Views(references, network, settings)
            synchronise(device)
            learnt = time.perf_counter() - started
            counted = queries[: min(COUNTED, candidates)]
            with FlopCounterMode(display=False) as counter:
                views.search(counted)
            operations = counter.get_total_flops() / len(counted) * candidates
            if warm_up and not number:
                views.search(queries)
            started = time.perf_counter()
            views.search(queries)
            searched = time.perf_counter() - started
            ratios.append(searched / (operations / rate))
            minutes.append((learnt + searched) / 60)
    told = (
        f"{candidates:,} candidates against {train:,} + {holdout:,} at {size}x{size}: "
        f"{operations / 1e12:.2f} TFLOP in {searched:.1f} s, fp32 ceiling {rate / 1e9:.0f} GFLOP/s; "
        f"embedding {learnt:.1f} s"
    )
    return [
        Row(OVER_ARITHMETIC, tuple(ratios), BOUND_GOAL, False, told),
        Row("gate: minutes, embedding and search", tuple(minutes), MINUTES_GOAL, False, told),
    ]


def _features(count: int) -> list[Row]:
    """Search `count` features among as many, and a quarter on either side: memory, and time against size."""
    seconds, peak = in_own_process(_search_features, count, count)
    fewer_queries, _ = in_own_process(_search_features, count // 4, count)
    fewer_references, _ = in_own_process(_search_features, count, count // 4)
    told = (
        f"{count:,} x {count:,} x {DIMENSIONS} drawn features: {seconds:.0f} s, {peak / 2**20:.0f} MiB; "
        f"a quarter of the queries {fewer_queries:.0f} s, of the references {fewer_references:.0f} s"
    )
    growth = (seconds / (4 * fewer_queries), seconds / (4 * fewer_references))
    return [
        Row("gate: peak memory of a search of features, GiB", (peak / 2**30,), MEMORY_GOAL, False, told),
        Row("gate: time over four times that of a quarter", growth, LINEAR_GOAL, False, told),
    ]


def _search_features(queries: int, references: int) -> tuple[float, int]:
    """Return seconds and peak memory of this process for one search of drawn unit vectors."""
    generator = torch.Generator().manual_seed(0)
    theirs, ours = (
        F.normalize(torch.randn(count, DIMENSIONS, generator=generator), dim=1)
        for count in (references, queries)
    )
    patients = np.arange(references) // 2
    groups = patients % (FOLDS + 1)
    sides = Sides(patients, groups < FOLDS, groups, shortlist=AuditSettings().shortlist)
    started = time.perf_counter()
    nearest_features(ours, theirs, sides, torch.full((queries,), NO_PATIENT))
    return time.perf_counter() - started, peak_bytes()


def _images(count: int, size: int, rng: np.random.Generator) -> torch.Tensor:
    """Return drawn images (n, 1, size, size) in [-1, 1]: noise that is smooth over a few pixels."""
    noise = torch.from_numpy(rng.standard_normal((count, 1, size, size), dtype=np.float32))
    smooth = F.avg_pool2d(F.pad(noise, (2,) * 4, mode="reflect"), 5, stride=1)
    return (1.5 * smooth).clamp(-1, 1)


def _references(train: int, holdout: int, size: int, rng: np.random.Generator) -> References:
    count = train + holdout
    patients = np.arange(count) // 2
    in_train = np.arange(count) < train
    folds = max(1, round(train / holdout))
    groups = np.where(in_train, patients % folds, folds)
    return References(
        images=_images(count, size, rng),
        rows=np.arange(count),
        labels=np.arange(count) % 2,
        patients=patients,
        in_train=in_train,
        groups=groups,
        tuning=~in_train & (patients % 2 == 0),
    )
