"""The whole pipeline as one Prefect flow: six tasks, their artifacts, the report."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from prefect import flow

from flows import artifacts, tasks
from flows.prefect_logs import without_tracebacks
from flows.results import call_task
from pipeline.artifacts.evaluation_report import external_verdicts
from pipeline.errors import DataError, GateRefusedError
from pipeline.evaluate.plan import external_references, require_image_size
from pipeline.manifest import Manifest, load_manifest
from pipeline.privacy.earlier_inputs import earlier_digests
from pipeline.recipe import Recipe, keep_recipe, load_recipe, public_recipe, write_recipe
from pipeline.records import CohortRef, Reference
from pipeline.stage import load_reference
from pipeline.storage import make_private_directory, read_json, write_json
from pipeline.train.fine_tuning import start_digest

logger = logging.getLogger(__name__)

TIMINGS_NAME = "timings.json"
STAGES = ("cohort", "checkpoint", "candidates", "audit", "release", "evaluation")
"""Directories of a run, in the order of the stages."""

RefT = TypeVar("RefT", bound=Reference)


def default_out(manifest_name: str, recipe: str) -> Path:
    """Return the default directory of a run: `runs/<manifest name>-<recipe name>`."""
    return Path("runs") / f"{manifest_name}-{Path(recipe).stem}"


@flow(name="phosphor", flow_run_name="phosphor-{recipe}", validate_parameters=True)
def phosphor_run(
    manifest: str,
    *,
    recipe: str = "gpu",
    out: str | None = None,
    overrides: list[str] | None = None,
    policy: str = "strict",
    test_cohorts: list[str] | None = None,
    force: bool = False,
) -> dict[str, Any]:
    """Ingest, train, sample, audit, release and evaluate; finished stages are reused.

    Args:
        manifest: path of the data manifest.
        recipe: recipe name or path.
        out: run directory; None is `runs/<manifest name>-<recipe>`.
        overrides: `key=value` settings on top of the recipe.
        policy: gate policy; a deployment is `strict` unless a run sets another one.
        test_cohorts: directories of finished cohorts of other sites, for external tests.
        force: replace outputs made from other inputs.

    Returns:
        Paths of all outputs, with the verdicts, as JSON-serialisable values.

    Raises:
        GateRefusedError: the gate does not allow a release; the report is still written.
    """
    without_tracebacks()
    settings = load_recipe(recipe, [*(overrides or []), f"release.policy={policy}"])
    described = load_manifest(Path(manifest))
    external = external_references([Path(path) for path in test_cohorts or []])
    run = Run(Path(out) if out else default_out(described.name, recipe), settings, external, force)
    return run.carry_out(Path(manifest).absolute(), described)


class Run:
    """One run directory and its finished stages."""

    def __init__(self, folder: Path, recipe: Recipe, external: list[CohortRef], force: bool) -> None:
        self.folder = make_private_directory(folder.absolute())
        self.recipe = recipe
        self.external = external
        self.force = force
        keep_recipe(self.folder, recipe)

    def carry_out(self, path: Path, manifest: Manifest) -> dict[str, Any]:
        """Run the unfinished stages in order, and return the paths of all outputs."""
        recipe, seed = self.recipe, self.recipe.seed
        source = {"name": manifest.name, "license": manifest.license, "citation": manifest.citation}
        force = {"force": self.force}
        cohort = self._stage("cohort", tasks.ingest_task, manifest=path, settings=recipe.ingest, **force)
        self._check_evaluation(cohort)
        checkpoint = self._stage(
            "checkpoint",
            tasks.train_task,
            cohort=cohort,
            settings=recipe.train,
            seed=seed,
            init_digest=start_digest(recipe.train),
            **force,
        )
        candidates = self._stage(
            "candidates",
            tasks.sample_task,
            checkpoint=checkpoint,
            settings=recipe.sample,
            seed=seed,
            **force,
        )
        audit = self._stage(
            "audit",
            tasks.audit_task,
            candidates=candidates,
            cohort=cohort,
            checkpoint=checkpoint,
            settings=recipe.audit,
            seed=seed,
            earlier_digests=earlier_digests(recipe.audit),
            **force,
        )
        artifacts.show_verdict(audit.path, recipe.release.policy.value, self.folder / "report.html")
        logger.info("gate verdict: %s", audit.verdict.value)
        try:
            release = self._stage(
                "release",
                tasks.release_task,
                candidates=candidates,
                audit=audit,
                settings=recipe.release,
                seed=seed,
                provenance={**public_recipe(recipe), "source": source},
                **force,
            )
        except GateRefusedError:
            self._report()
            raise
        artifacts.show_grid(release.path)
        evaluation = self._stage(
            "evaluation",
            tasks.evaluate_task,
            release=release,
            cohort=cohort,
            settings=recipe.evaluate,
            seed=seed,
            external=self.external,
            **force,
        )
        artifacts.show_metrics(evaluation.path)
        write_recipe(self.folder, recipe)
        report = self._report()
        references = (cohort, checkpoint, candidates, audit, release, evaluation)
        return {
            "path": str(self.folder),
            "report": str(report),
            "recipe_digest": recipe.digest(),
            "verdict": audit.verdict.value,
            "release": str(release.path),
            "digests": {reference.stage: reference.digest for reference in references},
            **external_verdicts(evaluation.path),
        }

    def _stage(self, name: str, task: Callable[..., RefT], **inputs: Any) -> Any:
        """Call one task for its directory, and log whether its output was reused."""
        out = self.folder / name
        before = _on_disk(name, out)
        started = time.monotonic()
        reference: RefT = call_task(task, out=out, **inputs)
        if before == reference.digest:
            logger.info("%s: reused %s (digest %s)", name, out, reference.digest[:12])
        else:
            self._record_time(name, time.monotonic() - started)
            counts = ", ".join(f"{count} {what}" for what, count in reference.counts.items())
            logger.info("%s: made %s (%s)", name, out, counts)
        if name != "release":
            # A release must not get files that its checksums do not list: its recipe is in provenance.json.
            keep_recipe(out, self.recipe)
        return reference

    def _check_evaluation(self, cohort: CohortRef) -> None:
        """Check what the evaluation needs before hours of training; the evaluation checks it again."""
        from pipeline.artifacts.cohort import open_cohort
        from pipeline.evaluate.external import open_external

        opened = open_cohort(cohort)
        require_image_size(self.recipe.evaluate, opened.info.image_size)
        open_external(self.external, opened)

    def _record_time(self, name: str, seconds: float) -> None:
        path = self.folder / TIMINGS_NAME
        timings = read_json(path, role="timings") if path.is_file() else {}
        write_json(path, {**timings, name: round(seconds, 3)}, private=True)

    def _report(self) -> Path:
        from pipeline.report import write_report

        started = time.monotonic()
        path = write_report(self.folder)
        logger.info("report: %s (%.1f s)", path, time.monotonic() - started)
        return path


def _on_disk(name: str, out: Path) -> str | None:
    """Return the digest of the finished output in `out`, if there is one."""
    kind = next(part for part in Reference.__subclasses__() if part.stage == name)
    try:
        return load_reference(kind, out).digest
    except DataError:
        return None
