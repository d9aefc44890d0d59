"""`phosphor study --dry-run`: the experiments of a study, what is finished, and the time of the rest."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.cohort import Cohort
from pipeline.cost.estimate import Foreseen, Workload, workload_of
from pipeline.evaluate.plan import estimate_evaluate, not_counted
from pipeline.evaluate.study.plan import Experiment, experiments
from pipeline.ingest.plan import plan_ingest
from pipeline.privacy.plan import estimate_audit
from pipeline.recipe import Recipe
from pipeline.sample.plan import estimate_sample
from pipeline.stage import State, is_finished
from pipeline.train.plan import estimate_train, network_of
from pipeline.wording.power import noticeable_gain

if TYPE_CHECKING:
    from pipeline.manifest import Manifest


def plan_study(
    recipe: Recipe, manifest: Manifest, folder: Path, *, release: Path | None = None
) -> dict[str, Any]:
    """Print the plan of a study on stderr and return it as JSON-serialisable values. Nothing is written.

    A study whose cohort is not there yet is planned by the cohort that ingest would make: then the number of
    experiments is known only once it is there.
    """
    plan = plan_ingest(manifest, folder / "cohort", recipe.ingest)
    there = plan.wanted.state(folder / "cohort") is State.REUSE
    work = workload_of(folder / "cohort") if there else plan.foresee().work
    lines = []
    planned: list[Experiment] = []
    if there:
        planned = experiments(
            Cohort(folder / "cohort"), recipe.study, seed=recipe.seed, foreign=release is not None
        )
    else:
        lines.append("The cohort is not there yet: the number of sites is that of the settings.")
    total = len(planned) or len(recipe.study.sizes) * len(recipe.study.regimes) * recipe.study.draws
    done = sum(is_finished(own.cell_in(folder)) for own in planned)
    seconds = _seconds(recipe, work, planned, total, foreign=release is not None) * (total - done) / total
    smallest = noticeable_gain(*_split_of_test(folder / "cohort", work, there))
    lines += [
        f"{total} sites, {done} of them finished; {len(recipe.study.arms)} kinds of arms, "
        f"{recipe.evaluate.seeds} classifiers each.",
        f"Time of the rest: about {seconds / 3600:.1f} h on this machine.",
        f"With {work.num_test} test scans, a gain in AUC under about {smallest:.3f} will hardly be seen, "
        "however many sites there are.",
    ]
    left_out = not_counted(recipe.evaluate.model_copy(update={"arms": recipe.study.arms}))
    if left_out:
        lines.append(f"At each site {left_out}.")
    if recipe.study.max_hours is not None and seconds > 3600 * recipe.study.max_hours:
        lines.append(f"study.max_hours={recipe.study.max_hours:g} ends it before; the same command goes on.")
    sys.stderr.write("\n".join([*lines, "Nothing was written."]) + "\n")
    return {"stage": "dry-run", "sites": total, "finished": done, "seconds": round(seconds, 1)}


def _seconds(
    recipe: Recipe, work: Workload, planned: list[Experiment], total: int, *, foreign: bool
) -> float:
    """Return the estimated time of all sites."""
    sizes = [own.size for own in planned] or list(recipe.study.sizes) * (total // len(recipe.study.sizes))
    regimes = [own.regime for own in planned] or list(recipe.study.regimes)
    known = [
        work.num_train if size == "all" else min(size * work.num_classes, work.num_train) for size in sizes
    ]
    mean = round(sum(known) / len(known))
    few = replace(work, num_train=mean, num_val=min(mean, work.num_val), num_audited=0)
    images = recipe.sample.per_class * work.num_classes
    settings = recipe.evaluate.model_copy(update={"arms": recipe.study.arms})
    cell = estimate_evaluate(settings, few, images).seconds
    network = network_of(recipe.train, few)
    drawn = Foreseen(few, network, num_images=images, num_asked=images)
    generator = (
        estimate_train(recipe.train, few).seconds
        + estimate_sample(recipe.sample, drawn).seconds
        + estimate_audit(recipe.audit, few, images, drawn).seconds
    )
    shared = sum(regime == "shared" for regime in regimes) / len(regimes)
    generators = total * (1 - shared) + (1 if shared and not foreign else 0)
    return total * cell + generators * generator


def _split_of_test(cohort: Path, work: Workload, there: bool) -> tuple[int, int]:
    """Return the number of test scans of the rarest class, and of the others; half each without a cohort."""
    if not there:
        return max(work.num_test // 2, 1), max(work.num_test - work.num_test // 2, 1)
    counts = Cohort(cohort).info.counts["test"].values()
    return max(min(counts), 1), max(sum(counts) - min(counts), 1)
