"""Training FLOP/s of the whole loop over the machine's own bf16 matrix-product ceiling."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from pipeline.records import CohortRef
from tests.experiments.benchmarks.machine import in_own_process, matrix_product_rate
from tests.experiments.benchmarks.rows import Row
from tests.experiments.benchmarks.workload import Workload, drawn_cohort, stage_rate, workload

CPU_GOAL, GPU_GOAL = 0.75, 0.35
GPU_GOAL_FROM_SIZE = 64


@dataclass(frozen=True)
class Counted:
    """What one training image costs, and how fast it went.

    Attributes:
        rate: images a second of the stage's whole loop.
        forward: FLOPs of the network's forward pass, an image.
        whole: FLOPs of forward and backward, an image.
        precision: arithmetic that the stage chose.
        device: kind of device.
    """

    rate: float
    forward: float
    whole: float
    precision: str
    device: str


def measure(
    rounds: int = 3, steps: int = 0, recipe: str = "", image_size: int = 0, network: str = ""
) -> list[Row]:
    """Measure the ceiling and the training in turn, each in a process of its own with the same threads.

    Args:
        rounds: rounds.
        steps: optimiser steps a round; 0 chooses by the device.
        recipe: another recipe than the device's.
        image_size: another side than the recipe's.
        network: another `train.network` than the recipe's.
    """
    chosen = workload(recipe, image_size, steps, network)
    ceilings, trained = [], []
    with tempfile.TemporaryDirectory(prefix="phosphor-bench-") as name:
        cohort = drawn_cohort(Path(name) / "cohort", chosen)
        for index in range(rounds):
            ceilings.append(in_own_process(matrix_product_rate, "bfloat16"))
            trained.append(in_own_process(_train, cohort, Path(name) / f"checkpoint-{index}", chosen))
        plain = in_own_process(matrix_product_rate, "float32")
    run = trained[-1]
    detail = (
        f"{run.rate:.1f} images a second x {run.whole / 1e9:.3f} GFLOP counted (forward "
        f"{run.forward / 1e9:.3f}) = {run.rate * run.whole / 1e9:.0f} GFLOP/s in {run.precision}, of "
        f"{ceilings[-1] / 1e9:.0f} in bf16 products ({plain / 1e9:.0f} in fp32); {chosen.words}"
    )
    goal: float | None = CPU_GOAL
    if run.device == "cuda":
        goal = GPU_GOAL if chosen.image_size >= GPU_GOAL_FROM_SIZE else None
    shares = tuple(r.rate * r.whole / ceiling for r, ceiling in zip(trained, ceilings, strict=True))
    return [Row("training FLOP/s over the bf16 matrix-product ceiling", shares, goal, True, detail)]


def _train(cohort: CohortRef, out: Path, chosen: Workload) -> Counted:
    """Run the train stage, then count the products of its denoiser as the stage made it compute."""
    from pipeline.artifacts.checkpoint import load_denoiser
    from pipeline.train import run_train

    reference = run_train(cohort, out, chosen.settings, seed=0)
    denoiser, info = load_denoiser(reference.path)
    forward, whole = count_flops(denoiser.requires_grad_(True).train(), chosen.settings.batch_size)
    layout = " channels-last" if info.channels_last else ""
    return Counted(stage_rate(out), forward, whole, f"{info.precision}{layout}", info.device)


def count_flops(denoiser: object, batch_size: int) -> tuple[float, float]:
    """Return the FLOPs an image of a forward pass, and of forward and backward together.

    Both are counted operator by operator while they run (matrix products and convolutions; a multiplication
    and an addition are two). Attention is made to run as plain products, as fused kernels of a CPU are not
    known to the counter.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    from models.diffusion.denoiser import Denoiser

    assert isinstance(denoiser, Denoiser)
    device = next(denoiser.parameters()).device
    x = torch.randn(batch_size, *denoiser.sample_shape, device=device)
    sigma = torch.full((batch_size,), 0.5, device=device)
    labels = torch.zeros(batch_size, dtype=torch.int64, device=device)
    with sdpa_kernel(SDPBackend.MATH):
        with FlopCounterMode(display=False) as forward:
            loss = denoiser(x, sigma, labels).square().mean()
        with FlopCounterMode(display=False) as backward:
            loss.backward()
    first, second = forward.get_total_flops(), backward.get_total_flops()
    if not 1.5 <= second / first <= 2.5:
        raise RuntimeError(f"counted {second} FLOPs backwards after {first} forwards: an operator is missed")
    return first / batch_size, (first + second) / batch_size
