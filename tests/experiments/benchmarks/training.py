"""Training images a second and peak memory against MONAI's tutorial loop and diffusers' training loop."""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.records import CohortRef
from tests.experiments.benchmarks.machine import in_own_process, peak_bytes
from tests.experiments.benchmarks.rows import Row, Skipped
from tests.experiments.benchmarks.workload import Workload, drawn_cohort, opened, stage_rate, workload

CPU_GOAL, GPU_GOAL = 2.2, 4.0
MEMORY_GOAL = 1.0
MIB = 2**20


@dataclass(frozen=True)
class Run:
    """One training in a process of its own.

    Attributes:
        rate: images a second.
        peak: largest resident memory, bytes.
        imported: resident memory at its largest before training, with everything imported.
        on_device: largest memory of tensors on the accelerator, bytes; 0 on a CPU.
        parameters: of the network.
        device: kind of device.
    """

    rate: float
    peak: int
    imported: int
    on_device: int
    parameters: int
    device: str

    @property
    def memory(self) -> int:
        """What counts as this training's memory: the accelerator's, where there is one."""
        return self.on_device or self.peak


def measure(
    rounds: int = 5, steps: int = 0, recipe: str = "", image_size: int = 0, network: str = ""
) -> Iterator[Row | Skipped]:
    """Measure rounds of ours and of the peers in turn, each in a process of its own as a user would run it.

    Args:
        rounds: rounds.
        steps: optimiser steps of ours a round; 0 chooses by the device.
        recipe: another recipe than the device's.
        image_size: another side than the recipe's.
        network: another `train.network` than the recipe's.
    """
    chosen = workload(recipe, image_size, steps, network)
    with tempfile.TemporaryDirectory(prefix="phosphor-bench-") as name:
        cohort = drawn_cohort(Path(name) / "cohort", chosen)
        ours: list[Run] = []
        peers: dict[str, list[Run]] = {kind: [] for kind in _peers()}
        for index in range(rounds):
            checkpoint = Path(name) / f"checkpoint-{index}"
            ours.append(in_own_process(_ours, cohort, checkpoint, chosen))
            for kind, runs in peers.items():
                runs.append(in_own_process(_peer, kind, cohort, checkpoint, chosen))
    on_gpu = ours[0].device == "cuda"
    yield _rate_row("the tutorial loop", ours, peers["tutorial"], chosen, GPU_GOAL if on_gpu else CPU_GOAL)
    yield _memory_row("the tutorial loop", ours, peers["tutorial"], MEMORY_GOAL)
    if "autocast" in peers:
        yield _rate_row("the tutorial loop under fp16 autocast", ours, peers["autocast"], chosen, None)
    if "diffusers" in peers:
        yield _rate_row("diffusers' UNet2DModel and loop", ours, peers["diffusers"], chosen, None)
        yield _memory_row("diffusers' UNet2DModel and loop", ours, peers["diffusers"], None)
    else:
        yield Skipped(
            "training images a second over diffusers' UNet2DModel and loop",
            "diffusers is not installed: pip install -c constraints.txt diffusers",
        )


def _peers() -> list[str]:
    from models.devices import default_device

    kinds = ["tutorial"]
    if default_device().type == "cuda":
        kinds.append("autocast")
    if importlib.util.find_spec("diffusers") is not None:
        kinds.append("diffusers")
    return kinds


def _rate_row(
    peer: str, ours: Sequence[Run], theirs: Sequence[Run], chosen: Workload, goal: float | None
) -> Row:
    detail = (
        f"{_mean([run.rate for run in ours]):.1f} against {_mean([run.rate for run in theirs]):.1f} images a "
        f"second; {_millions(ours)} against {_millions(theirs)} M parameters; {chosen.words}"
    )
    ratios = tuple(a.rate / b.rate for a, b in zip(ours, theirs, strict=True))
    return Row(f"training images a second over {peer}", ratios, goal, True, detail)


def _memory_row(peer: str, ours: Sequence[Run], theirs: Sequence[Run], goal: float | None) -> Row:
    words = [
        f"{max(run.memory for run in runs) / MIB:.0f} MiB"
        + (" of tensors on the accelerator" if runs[0].on_device else "")
        + f" (process {max(run.peak for run in runs) / MIB:.0f} MiB, "
        f"{max(run.imported for run in runs) / MIB:.0f} MiB of it after imports)"
        for runs in (ours, theirs)
    ]
    ratios = tuple(a.memory / b.memory for a, b in zip(ours, theirs, strict=True))
    return Row(f"training peak memory over {peer}", ratios, goal, False, " against ".join(words))


def _ours(cohort: CohortRef, out: Path, chosen: Workload) -> Run:
    """Run the whole train stage."""
    import torch

    from models.devices import default_device
    from pipeline.train import run_train

    load_libraries()
    imported, device = peak_bytes(), default_device()
    reference = run_train(cohort, out, chosen.settings, seed=0)
    on_device = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    return Run(
        stage_rate(out), peak_bytes(), imported, on_device, reference.counts["parameters"], device.type
    )


def _peer(kind: str, cohort: CohortRef, checkpoint: Path, chosen: Workload) -> Run:
    """Run a peer's loop on the same images, with the batch size and network sizes of the checkpoint."""
    import torch

    from models.devices import default_device
    from tests.experiments.benchmarks import peers

    load_libraries(*(["diffusers.models.unets.unet_2d"] if kind == "diffusers" else []))
    imported, device = peak_bytes(), default_device()
    data = opened(cohort)
    spec = peers.peer_spec(checkpoint)
    peer: peers.Peer
    if kind == "diffusers":
        peer = peers.DiffusersLoop(spec, device)
    else:
        peer = peers.TutorialLoop(spec, device, autocast=kind == "autocast")
    run = peers.train_peer(
        peer, data, batch_size=chosen.settings.batch_size, device=device, num_steps=chosen.peer_steps
    )
    on_device = torch.cuda.max_memory_allocated() if device.type == "cuda" else 0
    count = peers.num_parameters(peer.network)
    return Run(run.images_per_second, peak_bytes(), imported, on_device, count, device.type)


def load_libraries(*more: str) -> None:
    """Import what training needs before it is timed or its memory is: the loop and MONAI's network."""
    for name in ("pipeline.train.loop", "monai.networks.nets.diffusion_model_unet", *more):
        importlib.import_module(name)


def _millions(runs: Sequence[Run]) -> str:
    return f"{runs[0].parameters / 1e6:.2f}"


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
