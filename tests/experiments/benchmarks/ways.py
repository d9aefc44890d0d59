"""Ways to images of 224 pixels at equal training time, judged on validation only.

`python -m tests.experiments.benchmarks.ways MANIFEST [OUT] [minutes=8] [seeds=2] [per_class=250]
[only="A;B"]` trains each way by the `cpu-224` recipe with a few settings changed, draws images without
guidance, and prints one row a way. A killed call goes on where it was. What is equal is time, so that it
wants an idle machine.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from models.evaluation.training import ClassifierTraining
from pipeline.artifacts.candidates import Candidates
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.pixels import StoredPixels
from pipeline.ingest import run_ingest
from pipeline.manifest import Manifest, load_manifest
from pipeline.recipe import Recipe, load_recipe
from pipeline.records import CohortRef
from pipeline.sample import run_sample
from pipeline.train import run_train
from tests.experiments.benchmarks.enlarged import enlarged
from tests.experiments.benchmarks.judging import Judge, Judged, spread
from tests.experiments.benchmarks.machine import describe

RECIPE = "cpu-224"
TRAINING = ClassifierTraining(num_steps=400, batch_size=32)
HEAD = (
    "| way | steps | synthetic-only val AUC | read as intended, by class "
    "| power by octave, finest first | KID |"
)
WAYS: dict[str, tuple[str, ...]] = {
    "pixels (the recipe)": (),
    "pixels, EDM": ("train.parametrisation=edm",),
    "64 pixels, enlarged": ("ingest.image_size=64",),
}


@dataclass(frozen=True)
class Trial:
    """One training of a way: its steps, and what its images are worth."""

    steps: int
    worth: Judged


def main() -> int:
    """Make and judge every way and seed, then print the table."""
    words = [word for word in sys.argv[1:] if "=" not in word]
    options = dict(word.split("=", 1) for word in sys.argv[1:] if "=" in word)
    manifest, out = load_manifest(Path(words[0])), Path(words[1] if len(words) > 1 else "runs/ways")
    names = options["only"].split(";") if "only" in options else list(WAYS)
    seeds = range(int(options.get("seeds", 2)))
    minutes, per_class = float(options.get("minutes", 8)), int(options.get("per_class", 250))
    fixed = [
        f"train.max_minutes={minutes:g}",
        f"sample.per_class={per_class}",
        "sample.overdraw=1",
        "sample.guidance_scale=1",
    ]
    judge = Judge(Cohort(_cohort(manifest, out, load_recipe(RECIPE)).path), TRAINING)
    auc, read = judge.of_real_scans()
    print(f"machine: {describe()}; {minutes:g} minutes")
    print(f"real scans: val AUC {auc:.4f}, read as what they are {read:.3f}\n")
    print(HEAD + "\n" + "|---" * HEAD.count(" |") + "|")
    for name in names:
        settings = [*fixed, *WAYS[name]]
        trials = [trial(manifest, out, name, settings, seed, judge) for seed in seeds]
        print(_row(name, trials), flush=True)
    return 0


def trial(manifest: Manifest, out: Path, name: str, settings: list[str], seed: int, judge: Judge) -> Trial:
    """Train one way with one seed, draw its images at the size that is judged, and judge them."""
    recipe = load_recipe(RECIPE, settings)
    cohort = _cohort(manifest, out, recipe)
    folder = out / name.replace(" ", "-") / f"seed-{seed}"
    checkpoint = run_train(cohort, folder / "checkpoint", recipe.train, seed=seed)
    drawn = Candidates(run_sample(checkpoint, folder / "candidates", recipe.sample, seed=seed).path)
    pixels = at_size(drawn.take(np.arange(len(drawn))), judge.pixels.shape[-2:])
    return Trial(checkpoint.counts["steps"], judge(pixels, drawn.table["label"].to_numpy()))


def _cohort(manifest: Manifest, out: Path, recipe: Recipe) -> CohortRef:
    return run_ingest(manifest, out / f"cohort-{recipe.ingest.image_size}", recipe.ingest)


def at_size(pixels: StoredPixels, size: tuple[int, int]) -> StoredPixels:
    """Return pixels (n, 1, h, w) of 8 bits at (height, width) = `size`, enlarged where they are smaller."""
    if pixels.shape[-2:] == tuple(size):
        return pixels
    images = [np.asarray(enlarged(Image.fromarray(image), max(size))) for image in pixels[:, 0]]
    return np.stack(images)[:, None]


def _row(name: str, trials: Sequence[Trial]) -> str:
    worth = [own.worth for own in trials]
    read = [np.mean(shares) for shares in zip(*(own.agreement_by_class for own in worth), strict=True)]
    power = [np.mean(shares) for shares in zip(*(own.power for own in worth), strict=True)]
    cells = [
        name,
        spread([own.steps for own in trials], 0),
        spread([own.auc for own in worth], 3),
        ", ".join(f"{share:.2f}" for share in read),
        ", ".join(f"{share:.2f}" for share in power),
        spread([own.kid for own in worth], 2),
    ]
    return "| " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(main())
