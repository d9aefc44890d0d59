"""What each row of the table of choices by device (`models/devices.py`) brings, in training steps."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch

from models.devices import choices, computing, default_device
from models.optim.allocator import held_memory
from models.optim.precision import Precision, precisions_of, probe_precision
from pipeline.records import CohortRef
from tests.experiments.benchmarks.gpu import loops
from tests.experiments.benchmarks.gpu.job import NO_TIME, Job
from tests.experiments.benchmarks.rows import Row, Skipped

COMPILE_SECONDS = 60.0

Measure = Callable[["_Bench"], Iterator[Row | Skipped]]


class _Bench:
    """Trainings of one size and batch, each choice against the table's own.

    Args:
        job: the part's work order.
        size: side of the images.
    """

    def __init__(self, job: Job, size: int) -> None:
        self.job, self.size, self.sizes = job, size, job.sizes
        self.device = default_device()
        self.preferred = loops.preferred(self.device)
        self.cohort = loops.noise_cohort(job.scratch / f"noise-{size}", size, max(64, 4 * self.sizes.batch))
        self.batch, self.plain = loops.fitting(lambda own: self.rates(self.preferred, own), self.sizes.batch)

    def rates(
        self, precision: Precision, batch: int = 0, cohort: CohortRef | None = None, size: int = 0
    ) -> tuple[float, ...]:
        return loops.training_rates(
            cohort or self.cohort, self.sizes, size or self.size, batch or self.batch, precision
        )

    def over(self, name: str, ours: tuple[float, ...], other: tuple[float, ...], words: str = "") -> Row:
        ratios = tuple(a / b for a, b in zip(ours, other, strict=True))
        place = f"{self.size}x{self.size}, batch {self.batch}, {self.preferred.name}"
        detail = f"{max(ours):.0f} against {max(other):.0f} images/s; {words or place}"
        return Row(f"choice: {name}", ratios, None, True, detail)


def rows(job: Job, size: int) -> Iterator[Row | Skipped]:
    """Yield what every choice brings, the quick ones first."""
    if not job.has(3 * job.sizes.rounds * job.sizes.step_seconds):
        yield Skipped("choices by device", NO_TIME)
        return
    bench = _Bench(job, size)
    done: set[Measure] = set()
    for name, measure in MEASURED.items():
        if measure in done:
            continue
        done.add(measure)
        if job.has(2 * job.sizes.rounds * job.sizes.step_seconds + 2):
            yield from measure(bench)
        else:
            yield Skipped(f"choice: {name}", NO_TIME)


def _arithmetic(bench: _Bench) -> Iterator[Row | Skipped]:
    for other in precisions_of(bench.device)[1:]:
        yield bench.over(f"{bench.preferred.name} over {other.name}", bench.plain, bench.rates(other))


def _probe_batch(bench: _Bench) -> Iterator[Row | Skipped]:
    """Show what a probe of few scans would choose, and how long each takes."""
    own = loops.trainer(
        bench.cohort, loops.recipe_settings(bench.sizes, bench.size), Precision("fp32", channels_last=False)
    )
    own.feed.close()
    for batch in sorted({min(32, bench.batch), bench.batch}):
        started = time.perf_counter()
        found = probe_precision(own.denoiser, batch_size=batch)
        taken = time.perf_counter() - started
        words = f"chose {found.name}; {found.measured}"
        yield Row(f"choice: probe of {batch} scans", (taken,), None, False, words, "s")


def _compiles(bench: _Bench) -> Iterator[Row | Skipped]:
    if not bench.job.has(COMPILE_SECONDS):
        yield Skipped("choice: compiled, where kernels are short", NO_TIME)
        return
    size, batch = bench.sizes.launch_bound
    cohort = loops.noise_cohort(bench.job.scratch / "short", size, max(64, 4 * batch))
    words = f"{size}x{size}, batch {batch}"
    plain = bench.rates(bench.preferred, batch, cohort, size)
    fast = bench.rates(replace(bench.preferred, compiled=True), batch, cohort, size)
    yield bench.over("compiled, where kernels are short", fast, plain, words)
    if not choices(bench.device).graphs:
        yield Skipped("choice: CUDA graphs, where kernels are short", "the device has none")
        return
    replayed = bench.rates(replace(bench.preferred, compiled=True, graphs=True), batch, cohort, size)
    yield bench.over("CUDA graphs, where kernels are short", replayed, fast, words)


def _fused_attention(bench: _Bench) -> Iterator[Row | Skipped]:
    with loops.chosen(fused_attention=not choices(bench.device).fused_attention):
        other = bench.rates(bench.preferred)
    yield _sided(bench, "fused attention", choices(bench.device).fused_attention, other)


def _deterministic(bench: _Bench) -> Iterator[Row | Skipped]:
    with torch_defaults(autotuned=True):
        other = bench.rates(bench.preferred)
    yield bench.over("deterministic kernels, chosen by rule", bench.plain, other)
    fp32 = Precision("fp32", channels_last=True)
    with torch_defaults():
        rounded = bench.rates(fp32)
    yield bench.over("fp32 products over TF32 ones", bench.rates(fp32), rounded)


def _pinned(bench: _Bench) -> Iterator[Row | Skipped]:
    with loops.chosen(pinned=False):
        other = bench.rates(bench.preferred)
    yield bench.over("page-locked copies", bench.plain, other)


def _keeps_heap(bench: _Bench) -> Iterator[Row | Skipped]:
    with loops.chosen(keeps_heap=True), held_memory():
        kept = bench.rates(bench.preferred)
    with loops.chosen(keeps_heap=False), held_memory():
        left = bench.rates(bench.preferred)
    yield bench.over("the C library's heap kept", kept, left)


def _reserved(bench: _Bench) -> Iterator[Row | Skipped]:
    """Show how much memory torch's allocator holds beyond what tensors ever needed."""
    bench.rates(bench.preferred)
    allocated, reserved = loops.peak_memory()
    if not allocated:
        yield Skipped("choice: allocator, reserved over allocated", "tensors lie in the host's memory")
        return
    words = f"{reserved:.2f} against {allocated:.2f} GiB; shapes never change, so no segments are expanded"
    yield Row("choice: allocator, reserved over allocated", (reserved / allocated,), None, False, words)


def _optimiser(bench: _Bench) -> Iterator[Row | Skipped]:
    """Time AdamW over all weights as one kernel, as the optimiser has it, against torch's default."""
    own = loops.trainer(
        bench.cohort, loops.recipe_settings(bench.sizes, bench.size), Precision("fp32", channels_last=True)
    )
    own.feed.close()
    for parameter in own.parameters:
        parameter.grad = torch.randn_like(parameter, memory_format=torch.preserve_format)
    rates = []
    for fused in (True, False):
        adamw = torch.optim.AdamW(own.parameters, lr=1e-6, fused=fused)
        rates.append(loops.rates(lambda _step, adamw=adamw: adamw.step(), 1, bench.sizes))
    count = sum(parameter.numel() for parameter in own.parameters)
    ratios = tuple(a / b for a, b in zip(*rates, strict=True))
    words = f"{max(rates[0]):.0f} against {max(rates[1]):.0f} steps/s of {count / 1e6:.1f} M weights"
    yield Row("choice: AdamW as one kernel", ratios, None, True, words)


def _sided(bench: _Bench, name: str, on: bool, other: tuple[float, ...]) -> Row:
    ours, theirs = (bench.plain, other) if on else (other, bench.plain)
    return bench.over(name, ours, theirs)


MEASURED: dict[str, Measure] = {
    "arithmetic": _arithmetic,
    "fused_attention": _fused_attention,
    "deterministic": _deterministic,
    "pinned": _pinned,
    "keeps_heap": _keeps_heap,
    "probe_batch": _probe_batch,
    "compiles": _compiles,
    "graphs": _compiles,
    "allocator": _reserved,
    "optimiser": _optimiser,
}
"""Field of `DeviceChoices` -> what measures it; `entries_at_once` is measured in the search. The last two are
the same on every device: torch's own allocator as it is, and a fused optimiser."""


@contextlib.contextmanager
def torch_defaults(*, autotuned: bool = False) -> Iterator[None]:
    """Compute inside the block as torch does by itself: any kernels, TF32 in convolutions.

    Args:
        autotuned: let cuDNN choose its kernels by timing them.
    """
    device = default_device()
    if not choices(device).deterministic:
        yield
        return
    with computing(device):
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.allow_tf32 = True
        torch.backends.cudnn.benchmark = autotuned
        yield
