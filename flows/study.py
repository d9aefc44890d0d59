"""The study as a Prefect flow: generators, gates and classifiers of many small sites, then one report."""

from __future__ import annotations

import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prefect import flow

from flows import tasks
from flows.prefect_logs import without_tracebacks
from flows.results import call_task
from pipeline.artifacts.cohort import Cohort, open_cohort
from pipeline.evaluate.plan import require_image_size
from pipeline.evaluate.study.plan import Experiment, experiments
from pipeline.evaluate.study.report import StudyReport, measure_study
from pipeline.privacy.earlier_inputs import earlier_digests
from pipeline.recipe import Recipe, keep_recipe, load_recipe, write_recipe
from pipeline.records import AuditRef, CandidatesRef, CellRef, CheckpointRef, CohortRef, ReleaseRef
from pipeline.rendering.formats import plural
from pipeline.report.study import write_study_page
from pipeline.stage import is_finished, verify_reference
from pipeline.storage import make_private_directory
from pipeline.train.fine_tuning import start_digest

logger = logging.getLogger(__name__)


@flow(name="phosphor-study", flow_run_name="study-{recipe}", validate_parameters=True)
def phosphor_study(
    manifest: str,
    *,
    recipe: str = "study",
    out: str,
    overrides: list[str] | None = None,
    release: str | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Ask whether synthetic data help at each regime and size; finished parts are reused.

    Args:
        manifest: path of the data manifest.
        recipe: recipe name or path.
        out: directory of the study.
        overrides: `key=value` settings on top of the recipe.
        release: release that the shared regime uses, instead of a generator that is trained elsewhere.
        force: replace outputs made from other inputs.

    Returns:
        The directory, the report and the verdicts, as JSON-serialisable values.
    """
    without_tracebacks()
    settings = load_recipe(recipe, overrides or [])
    study = Study(make_private_directory(Path(out).absolute()), settings, release, force)
    report = study.carry_out(Path(manifest).absolute())
    return {
        "path": str(study.folder),
        "report": str(study.folder / "study.html"),
        "verdicts": {f"{row.regime} {row.size}": row.verdict for row in report.rows},
        "missing": report.missing,
    }


@dataclass(frozen=True)
class Study:
    """A study's directory, settings, and the release that was given for the shared regime."""

    folder: Path
    recipe: Recipe
    release: str | None
    force: bool

    def carry_out(self, manifest: Path) -> StudyReport:
        """Make all experiments in order, within the time budget, and write the report."""
        recipe = self.recipe
        keep_recipe(self.folder, recipe)
        started = time.monotonic()
        whole: CohortRef = call_task(
            tasks.ingest_task, manifest, out=self.folder / "cohort", settings=recipe.ingest, force=self.force
        )
        cohort = open_cohort(whole)
        require_image_size(recipe.evaluate, cohort.info.image_size)
        planned = experiments(cohort, recipe.study, seed=recipe.seed, foreign=self.release is not None)
        done: dict[Experiment, CellRef] = {}
        limit = None if recipe.study.max_hours is None else 3600.0 * recipe.study.max_hours
        for number, experiment in enumerate(planned):
            spent = time.monotonic() - started
            if limit is not None and spent > limit and not is_finished(experiment.cell_in(self.folder)):
                continue
            _say(number, len(planned), spent, experiment)
            done[experiment] = self._cell(whole, cohort, experiment)
        if len(done) < len(planned):
            logger.warning("study.max_hours is over: %s left out", plural(len(planned) - len(done), "site"))
        write_recipe(self.folder, recipe)
        report = measure_study(self.folder, cohort, done, planned, recipe.evaluate, seed=recipe.seed)
        write_study_page(self.folder, report)
        return report

    def _cell(self, whole: CohortRef, cohort: Cohort, experiment: Experiment) -> CellRef:
        cell, recipe = experiment.cell_in(self.folder), self.recipe
        evaluate = recipe.evaluate.model_copy(update={"arms": recipe.study.arms})
        common: dict[str, Any] = {
            "out": cell,
            "settings": evaluate,
            "seed": experiment.own_seed,
            "force": self.force,
        }
        if experiment.regime == "shared" and self.release is not None:
            given = verify_reference(ReleaseRef, Path(self.release))
            return call_task(tasks.study_cell_task, whole, experiment, release=given, **common)
        home = self.folder / "elsewhere" if experiment.regime == "shared" else cell.parent
        candidates, audit = self._generate(home, whole, experiment)
        return call_task(
            tasks.study_cell_task, whole, experiment, candidates=candidates, audit=audit, **common
        )

    def _generate(
        self, home: Path, whole: CohortRef, experiment: Experiment
    ) -> tuple[CandidatesRef, AuditRef]:
        """Train a generator on what the experiment gives it, sample and audit."""
        recipe = self.recipe
        seed = recipe.seed if experiment.regime == "shared" else experiment.own_seed
        force = {"force": self.force}
        site: CohortRef = call_task(tasks.site_task, whole, experiment, out=home / "cohort")
        checkpoint: CheckpointRef = call_task(
            tasks.train_task,
            site,
            out=home / "checkpoint",
            settings=recipe.train,
            seed=seed,
            init_digest=start_digest(recipe.train),
            **force,
        )
        candidates: CandidatesRef = call_task(
            tasks.sample_task, checkpoint, out=home / "candidates", settings=recipe.sample, seed=seed, **force
        )
        audit: AuditRef = call_task(
            tasks.audit_task,
            candidates,
            cohort=site,
            checkpoint=checkpoint,
            out=home / "audit",
            settings=recipe.audit,
            seed=seed,
            earlier_digests=earlier_digests(recipe.audit),
            **force,
        )
        return candidates, audit


def _say(number: int, total: int, spent: float, experiment: Experiment) -> None:
    """Tell on stderr which experiment begins, and how long the rest may take."""
    left = f", about {spent / number * (total - number) / 60:.0f} min left" if number else ""
    sys.stderr.write(f"study {number + 1} of {total}: {experiment.name}{left}\n")
