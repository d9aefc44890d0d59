"""The headline figures: three generator seeds times five classifier seeds, from whole runs on PneumoniaMNIST.

`python -m tests.experiments.benchmarks.headline [OUT] [--tutorial]` makes the runs that are not done yet and
prints their figures; with `--tutorial` also those of the tutorial recipe at the same training time, and of as
many of our images as were drawn with it (its 1,000 steps take seconds an image on a CPU: 640 unless told
otherwise).
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.evaluation_report import ArmResult, EvaluationReport, read_evaluation_report
from pipeline.artifacts.privacy_report import read_privacy_report
from pipeline.artifacts.release import ReleasedImages, read_release
from pipeline.recipe import Recipe, load_recipe
from pipeline.storage import read_json
from tests.experiments.benchmarks.fidelity_intervals import ScopeFigures, measure_scopes
from tests.experiments.benchmarks.headline_tutorial import (
    SyntheticResult,
    own_result,
    share_counts,
    tutorial_result,
)
from tests.experiments.benchmarks.machine import describe

MANIFEST = "data_manifests/pneumoniamnist.yaml"
GENERATOR_SEEDS = (1, 2, 3)
TUTORIAL_IMAGES = 640
AUC_GOAL, RATIO_GOAL = 0.962, 0.993
REAL_ONLY, REAL_AUGMENTED, SYNTHETIC = "real", "real_augmented", "synthetic"


@dataclass(frozen=True)
class Run:
    """One finished run and what its evaluation says; no arm is trained and no test scan read for it here."""

    seed: int
    folder: Path
    recipe: Recipe
    cohort: Cohort
    released: ReleasedImages
    report: EvaluationReport
    scopes: list[ScopeFigures]

    @property
    def training_seconds(self) -> float:
        """Wall time of the train stage."""
        return float(read_json(self.folder / "timings.json", role="timings")["checkpoint"])

    def by_seed(self, arm: str) -> tuple[float, ...]:
        """Test AUC of an arm by classifier seed."""
        return next(found.test_auc_by_seed for found in arms_of(self.report, arm))


def main(arguments: list[str] | None = None) -> int:
    """Run what is missing, then print the figures of each generator seed and over all."""
    parser = argparse.ArgumentParser(prog="python -m tests.experiments.benchmarks.headline")
    parser.add_argument("out", nargs="?", type=Path, default=Path("runs/headline"))
    parser.add_argument("--tutorial", action="store_true", help="also the tutorial recipe at equal time")
    parser.add_argument("--tutorial-images", type=int, default=TUTORIAL_IMAGES, help="drawn for each seed")
    parser.add_argument("--manifest", default=MANIFEST)
    parser.add_argument("--recipe", default="cpu")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(GENERATOR_SEEDS))
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="as of phosphor run")
    chosen = parser.parse_args(arguments)
    print(f"machine: {describe()}", flush=True)
    runs = []
    for seed in chosen.seeds:
        folder = chosen.out / f"seed-{seed}"
        _make(chosen.manifest, chosen.recipe, folder, [f"seed={seed}", *chosen.overrides])
        runs.append(read_run(seed, folder))
        _print_run(runs[-1])
    _print_all(runs)
    if chosen.tutorial:
        _print_tutorial(runs, chosen.tutorial_images)
    return 0


def read_run(seed: int, folder: Path) -> Run:
    """Read a finished run and measure its fidelity with intervals, on the sets that its evaluation drew."""
    recipe, cohort = load_recipe(folder / "recipe.yaml"), Cohort(folder / "cohort")
    released = read_release(folder / "release", cohort)
    scopes = measure_scopes(cohort, released, recipe.evaluate, recipe.seed)
    return Run(seed, folder, recipe, cohort, released, read_evaluation_report(folder / "evaluation"), scopes)


def arms_of(report: EvaluationReport, name: str) -> list[ArmResult]:
    """Return the arms of this name that were measured on test."""
    return [arm for arm in report.arms if arm.arm == name and arm.test_auc_by_seed]


def ratio(synthetic: Sequence[float], real: Sequence[float]) -> float:
    """Return the ratio of the mean AUCs."""
    return statistics.mean(synthetic) / statistics.mean(real)


def _make(manifest: str, recipe: str, folder: Path, overrides: Sequence[str]) -> None:
    """Make a run as a user would; a finished one is reused."""
    command = [
        sys.executable,
        "-m",
        "flows.cli.app",
        "run",
        manifest,
        "--recipe",
        recipe,
        "--out",
        str(folder),
    ]
    for override in overrides:
        command += ["--set", override]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _print_run(run: Run) -> None:
    report = run.report
    synthetic, real = run.by_seed(SYNTHETIC), run.by_seed(REAL_ONLY)
    agreement = {name: round(value.value, 3) for name, value in report.label_agreement.items()}
    shuffled = {name: round(value.value, 3) for name, value in report.label_agreement_shuffled.items()}
    verdict = read_privacy_report(run.folder / "audit").verdict.value
    print(
        f"generator seed {run.seed}: synthetic-only test AUC {_spread(synthetic)}, "
        f"real-only {_spread(real)}, ratio {ratio(synthetic, real):.4f}; "
        f"trained {run.training_seconds:.0f} s; released {len(run.released)}; gate {verdict}; "
        f"agreement {agreement}, shuffled {shuffled}; utility {report.utility.verdict}; "
        f"test reads {report.test_reads}",
        flush=True,
    )
    for scope in run.scopes:
        print(f"  {scope.words}", flush=True)


def _print_all(runs: Sequence[Run]) -> None:
    names = sorted({arm.arm for run in runs for arm in run.report.arms if arm.test_auc_by_seed})
    pooled = {
        name: [v for run in runs for arm in arms_of(run.report, name) for v in arm.test_auc_by_seed]
        for name in names
    }
    print(f"over {len(runs)} generator seeds:")
    for name, values in pooled.items():
        print(f"  {name}: test AUC {_spread(values)}, n={len(values)}")
    auc = statistics.mean(pooled[SYNTHETIC])
    share = ratio(pooled[SYNTHETIC], pooled[REAL_ONLY])
    augmented = ratio(pooled[SYNTHETIC], pooled[REAL_AUGMENTED])
    print(f"  synthetic-only test AUC {auc:.4f}, goal >= {AUC_GOAL}: {_state(auc >= AUC_GOAL)}")
    print(
        f"  synthetic-only over real-only {share:.4f}, goal >= {RATIO_GOAL}: {_state(share >= RATIO_GOAL)}; "
        f"over real-only, balanced and augmented, {augmented:.4f}"
    )
    _print_scopes([run.scopes for run in runs])


def _print_scopes(all_scopes: Sequence[Sequence[ScopeFigures]]) -> None:
    """Print each scope's mean over generator seeds with its range; single intervals stand above."""
    for name in dict.fromkeys(scope.scope for scopes in all_scopes for scope in scopes):
        found = [scope for scopes in all_scopes for scope in scopes if scope.scope == name]
        figures = ("kid", "kid_floor", "fid", "fid_floor")
        words = [
            f"{figure.replace('_', ' ').replace('kid', 'KID').replace('fid', 'FID')} "
            f"{_spread([getattr(scope, figure).value for scope in found], 3)}"
            for figure in figures
        ]
        print(f"  {name}: {', '.join(words)}", flush=True)


def _print_tutorial(runs: Sequence[Run], most: int) -> None:
    """Print the tutorial recipe and ours, `most` images of each, by generator seed and over all."""
    results: dict[str, list[tuple[SyntheticResult, list[ScopeFigures]]]] = {"tutorial recipe": [], "ours": []}
    for run in runs:
        counts = share_counts(run.released, len(run.cohort.info.classes), most)
        seconds, folder = run.training_seconds, run.folder
        tutorial, ours = (folder / f"{name}-{sum(counts)}" for name in ("tutorial", "ours"))
        measured = (
            tutorial_result(folder, tutorial, run.recipe, seconds=seconds, counts=counts),
            own_result(folder, ours, run.recipe, released=run.released, seconds=seconds, counts=counts),
        )
        for (name, found), result in zip(results.items(), measured, strict=True):
            scopes = measure_scopes(run.cohort, result.images, run.recipe.evaluate, run.recipe.seed)
            found.append((result, scopes))
            print(
                f"{name}, generator seed {run.seed}, trained {result.seconds:.0f} s, "
                f"{len(result.images)} images: synthetic-only test AUC {_spread(result.by_seed)}",
                flush=True,
            )
            for scope in scopes:
                print(f"  {scope.words}", flush=True)
    real = [value for run in runs for value in run.by_seed(REAL_ONLY)]
    for name, found in results.items():
        values = [value for result, _ in found for value in result.by_seed]
        print(
            f"{name} over {len(runs)} generator seeds: synthetic-only test AUC {_spread(values)}, "
            f"n={len(values)}, over real-only {ratio(values, real):.4f}"
        )
        _print_scopes([scopes for _, scopes in found])


def _spread(values: Sequence[float], digits: int = 4) -> str:
    mean, low, high = (f"{part(values):.{digits}f}" for part in (statistics.mean, min, max))
    if len(values) < 2:
        return mean
    return f"{mean} (sd {statistics.stdev(values):.{digits}f}, {low}-{high})"


def _state(met: bool) -> str:
    return "met" if met else "NOT MET"


if __name__ == "__main__":
    sys.exit(main())
