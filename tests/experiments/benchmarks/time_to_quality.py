"""Training time to the KID that the tutorial recipe has after ten minutes (hours on a CPU)."""

from __future__ import annotations

import importlib.util
import math
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from models.devices import default_device
from models.network.spec import NetworkSpec
from pipeline.artifacts.candidates import Candidates
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.pixels import StoredPixels
from pipeline.recipe import Recipe
from pipeline.records import CohortRef
from pipeline.sample import run_sample
from pipeline.sample.settings import SampleSettings
from pipeline.train import run_train
from pipeline.train.settings import TrainSettings
from tests.experiments.benchmarks import peers as peer_loops
from tests.experiments.benchmarks.headline_tutorial import kept_images
from tests.experiments.benchmarks.machine import in_own_process
from tests.experiments.benchmarks.real_cohort import KidMeter, device_recipe, open_or_ingest, sample_peer
from tests.experiments.benchmarks.rows import Row, Skipped
from tests.experiments.benchmarks.workload import stage_rate

GOAL = 0.2
TRIED_STEPS = 5
RATE_STEPS = 40
TUNED_RATE, TUNED_AVERAGE = 1e-3, 0.999
PEERS = {
    "tutorial": "MONAI's tutorial recipe (Adam 1e-4, fp32, 1,000 DDPM steps)",
    "tuned": "the same with Adam 1e-3 and an average of the weights (.999)",
    "diffusers": "diffusers' UNet2DModel, training loop and 1,000 DDPM steps",
}


def measure(
    minutes: float = 10.0,
    samples: int = 500,
    budgets: str = "0.25,0.5,1,2,4,8",
    peers: str = "tutorial,tuned,diffusers",
    cohort: str = "",
    tutorial: str = "",
    seed: int = 1,
) -> Iterator[Row | Skipped]:
    """Train the peers once; then ours with rising budgets, each a whole schedule, until it is at each KID.

    Args:
        minutes: training time of the peers.
        samples: images behind each KID.
        budgets: training minutes of ours to try, rising.
        peers: which of `PEERS` to train; `tutorial` carries the goal.
        cohort: a cohort directory; empty ingests PneumoniaMNIST or the phantom cohort.
        tutorial: where `headline --tutorial` keeps what it trained for ten minutes on this machine and drew;
            empty trains and draws it here.
        seed: run seed.
    """
    with tempfile.TemporaryDirectory(prefix="phosphor-bench-") as name:
        recipe = device_recipe()
        reference = open_or_ingest(cohort, Path(name), recipe)
        meter = KidMeter(Cohort(reference.path), recipe.evaluate)
        labels = meter.labels(samples)
        rate = in_own_process(_rate, reference, Path(name) / "rate", recipe.train)
        spec = peer_loops.peer_spec(Path(name) / "rate")
        target: dict[str, tuple[float, float]] = {}
        for kind in peers.split(","):
            if kind == "diffusers" and importlib.util.find_spec("diffusers") is None:
                yield Skipped(
                    _name(kind), "diffusers is not installed: pip install -c constraints.txt diffusers"
                )
                continue
            if kind == "tutorial" and tutorial:
                seconds, pixels = kept_images(Path(tutorial), labels)
            else:
                seconds, pixels = in_own_process(
                    _train_peer, kind, reference, spec, recipe.train.batch_size, minutes * 60, labels, seed
                )
            target[kind] = (seconds, meter.kid(pixels).value)
        climb = _Climb(reference, recipe, rate, meter, labels, Path(name), seed)
        lowest = min((kid for _, kid in target.values()), default=-math.inf)
        ours = climb.until(lowest, sorted(float(word) for word in budgets.split(",")))
        floor = meter.floor(samples).value
    tried = ", ".join(f"{kid:.3f} after {seconds:.0f} s" for seconds, kid in ours)
    for kind, (seconds, kid) in target.items():
        reached = next((ours_s for ours_s, ours_kid in ours if ours_kid <= kid), math.inf)
        detail = (
            f"{PEERS[kind]}: KID {kid:.3f} after {seconds:.0f} s of training; ours: {tried}; "
            f"real-vs-real {floor:.3f}; {samples} images, {meter.cohort.info.name}"
        )
        goal = GOAL if kind == "tutorial" else None
        yield Row(_name(kind), (reached / seconds,), goal, False, detail)


def _name(kind: str) -> str:
    peer = {"tutorial": "the tutorial recipe", "tuned": "the tuned tutorial recipe"}.get(kind, kind)
    return f"training time to the KID of {peer}, over its time"


@dataclass(frozen=True)
class _Climb:
    """Ours on one cohort with rising budgets."""

    cohort: CohortRef
    recipe: Recipe
    rate: float
    meter: KidMeter
    labels: npt.NDArray[np.int64]
    folder: Path
    seed: int

    def until(self, target: float, budgets: list[float]) -> list[tuple[float, float]]:
        """Return (training seconds, KID) of each budget in minutes, up to the first that is at the target."""
        reached: list[tuple[float, float]] = []
        for budget in budgets:
            steps = max(round(budget * 60 * self.rate / self.recipe.train.batch_size), TRIED_STEPS)
            out = self.folder / f"ours-{budget:g}"
            seconds, pixels = in_own_process(
                _train_ours, self.cohort, out, self.recipe, steps, self.labels, self.seed
            )
            reached.append((seconds, self.meter.kid(pixels).value))
            if reached[-1][1] <= target:
                break
        return reached


def _rate(cohort: CohortRef, out: Path, settings: TrainSettings) -> float:
    """Return the images a second of our train stage on this cohort."""
    run_train(cohort, out, _changed(settings, num_steps=RATE_STEPS), seed=0)
    return stage_rate(out)


def _train_ours(
    cohort: CohortRef, out: Path, recipe: Recipe, steps: int, labels: npt.NDArray[np.int64], seed: int
) -> tuple[float, StoredPixels]:
    """Train a whole schedule of so many steps and sample; the seconds are the stage's, its probe included."""
    settings = _changed(
        recipe.train, num_steps=steps, warmup_steps=min(recipe.train.warmup_steps, steps // 5)
    )
    started = time.perf_counter()
    checkpoint = run_train(cohort, out / "checkpoint", settings, seed=seed)
    seconds = time.perf_counter() - started
    wanted = np.bincount(labels)
    # Guidance trades variety for label fidelity, and KID rewards variety: the plain model, as the peers are.
    sampling = SampleSettings.model_validate(
        {
            **recipe.sample.model_dump(),
            "per_class": int(wanted.max()),
            "overdraw": 1.0,
            "guidance_scale": 1.0,
        }
    )
    candidates = Candidates(run_sample(checkpoint, out / "candidates", sampling, seed=seed).path)
    of_class = candidates.table["label"].to_numpy()
    rows = [np.flatnonzero(of_class == label)[:count] for label, count in enumerate(wanted)]
    return seconds, candidates.take(np.concatenate(rows))


def _train_peer(
    kind: str,
    reference: CohortRef,
    spec: NetworkSpec,
    batch: int,
    seconds: float,
    labels: npt.NDArray[np.int64],
    seed: int,
) -> tuple[float, StoredPixels]:
    """Train a peer for so many seconds and sample it; returns the seconds that it took."""
    torch.manual_seed(seed)
    cohort, device = Cohort(reference.path), default_device()
    peer: peer_loops.Peer
    if kind == "diffusers":
        # Its learning rate follows a schedule over the steps that the time allows, so a trial counts them.
        trial = peer_loops.train_peer(
            peer_loops.DiffusersLoop(spec, device),
            cohort,
            batch_size=batch,
            device=device,
            num_steps=TRIED_STEPS,
        )
        steps = round(trial.images_per_second * seconds / batch)
        peer = peer_loops.DiffusersLoop(spec, device, num_steps=max(steps, TRIED_STEPS))
    elif kind == "tuned":
        peer = peer_loops.TutorialLoop(spec, device, learning_rate=TUNED_RATE, average=TUNED_AVERAGE)
    elif kind == "tutorial":
        peer = peer_loops.TutorialLoop(spec, device)
    else:
        raise ValueError(f"peers must be of {sorted(PEERS)}, got {kind!r}")
    run = peer_loops.train_peer(peer, cohort, batch_size=batch, device=device, seconds=seconds)
    return run.seconds, sample_peer(peer, cohort, labels, batch_size=128, seed=seed)


def _changed(settings: TrainSettings, **changes: object) -> TrainSettings:
    fixed = {"grid_every_steps": 0, "max_minutes": None}
    return TrainSettings.model_validate({**settings.model_dump(), **fixed, **changes})
