"""One command per stage: reads the recipe, calls the stage, prints its reference."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.cli.options import (
    DryRun,
    Force,
    Out,
    Overrides,
    RecipeName,
    TestCohorts,
    emit,
    read_recipe,
    reported,
)
from models.samplers.table import SAMPLERS
from pipeline.errors import UsageError

if TYPE_CHECKING:
    from pipeline.recipe import Recipe
    from pipeline.records import Reference

_DEFAULT_RECIPE = "cpu"
CohortPath = Annotated[Path, typer.Option("--cohort", help="Cohort directory.", show_default=False)]


def ingest(
    manifest: Annotated[Path, typer.Argument(help="Data manifest (YAML).", show_default=False)],
    *,
    out: Out,
    recipe: RecipeName = _DEFAULT_RECIPE,
    overrides: Overrides = None,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Turn scans into a cohort with a patient-level split.

    \b
    Example:
      phosphor ingest data_manifests/phantom.yaml --out runs/demo/cohort --recipe smoke
    """
    with reported():
        from pipeline.manifest import load_manifest

        settings = read_recipe(recipe, overrides)
        described = load_manifest(manifest)
        if dry_run:
            from flows.dry_run import plan_stage
            from pipeline.ingest.plan import plan_ingest

            planned = partial(plan_ingest, described, out, settings.ingest)
            emit(plan_stage("ingest", planned, out, force=force))
            return
        from pipeline.ingest import run_ingest

        _finish(run_ingest(described, out, settings.ingest, force=force), settings)


def train(
    cohort: Annotated[Path, typer.Argument(help="Cohort directory.", show_default=False)],
    *,
    out: Out,
    recipe: RecipeName = _DEFAULT_RECIPE,
    overrides: Overrides = None,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Train the denoiser on a cohort.

    An interrupted training resumes from its last saved state and ends with the same weights, up to rounding
    if other programs needed its cores and train.num_threads is not set. Several processes or GPUs train
    together under torchrun, or with the templates in flows/cluster.

    \b
    Example:
      phosphor train runs/demo/cohort --out runs/demo/checkpoint --recipe smoke --set train.num_steps=60
      torchrun --nproc-per-node 2 -m flows train runs/demo/cohort --out runs/demo/checkpoint
    """
    with reported():
        settings = read_recipe(recipe, overrides)
        if dry_run:
            from flows.dry_run import plan_stage
            from pipeline.train.plan import plan_train

            planned = partial(plan_train, cohort, settings.train, seed=settings.seed)
            emit(plan_stage("train", planned, out, force=force))
            return
        from pipeline.train import run_train

        _finish(run_train(cohort, out, settings.train, seed=settings.seed, force=force), settings)


def sample(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint directory.", show_default=False)],
    *,
    out: Out,
    per_class: Annotated[
        int | None, typer.Option("--per-class", min=1, help="Requested images per class.")
    ] = None,
    classes: Annotated[
        list[str] | None, typer.Option("--class", help="Only this class; may be given several times.")
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option("--sampler", help=f"One of {', '.join(SAMPLERS)}."),
    ] = None,
    steps: Annotated[int | None, typer.Option("--steps", min=1, help="Sampler steps.")] = None,
    guidance: Annotated[
        float | None, typer.Option("--guidance", help="Classifier-free guidance scale; 1 is none.")
    ] = None,
    given: Annotated[
        list[str] | None,
        typer.Option(
            "--given",
            metavar="NAME=VALUE",
            help="Condition of every image: sex=F, effusion=present, or findings=effusion,mass (these and no "
            "other); may be given several times.",
        ),
    ] = None,
    recipe: RecipeName = _DEFAULT_RECIPE,
    overrides: Overrides = None,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Generate candidates from a checkpoint, with one seed per image.

    Several processes or GPUs generate the same bytes together under torchrun.

    \b
    Example:
      phosphor sample runs/demo/checkpoint --out runs/demo/candidates --per-class 40 --steps 18
      torchrun --nproc-per-node 2 -m flows sample runs/demo/checkpoint --out runs/demo/candidates
    """
    with reported():
        options = {
            "sample.per_class": per_class,
            "sample.sampler": sampler,
            "sample.num_steps": steps,
            "sample.guidance_scale": guidance,
            "sample.given": _given(given),
        }
        settings = read_recipe(recipe, overrides, options)
        chosen = tuple(classes) if classes else None
        if dry_run:
            from flows.dry_run import plan_stage
            from pipeline.sample.plan import plan_sample

            planned = partial(plan_sample, checkpoint, settings.sample, seed=settings.seed, classes=chosen)
            emit(plan_stage("sample", planned, out, force=force))
            return
        from pipeline.sample import run_sample

        reference = run_sample(
            checkpoint, out, settings.sample, seed=settings.seed, classes=chosen, force=force
        )
        _finish(reference, settings)


def audit(
    candidates: Annotated[
        Path,
        typer.Argument(help="Candidates directory, or a folder of class folders.", show_default=False),
    ],
    *,
    cohort: CohortPath,
    out: Out,
    checkpoint: Annotated[
        Path | None,
        typer.Option("--checkpoint", help="Checkpoint that made the candidates: checked, and attacked."),
    ] = None,
    recipe: RecipeName = _DEFAULT_RECIPE,
    overrides: Overrides = None,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Measure the privacy risk of candidates.

    Accepts or rejects each candidate and concludes PASS, FAIL or INCONCLUSIVE. An audit with verdict FAIL is
    a finished audit: the exit code is 0, and `release` refuses it. Membership inference attacks the accepted
    images and, with --checkpoint, the model. An interrupted audit resumes from its partial results. Several
    processes or GPUs share the search under torchrun.

    \b
    Example:
      phosphor audit runs/demo/candidates --cohort runs/demo/cohort --out runs/demo/audit --recipe smoke
      torchrun --nproc-per-node 2 -m flows audit runs/demo/candidates --cohort runs/demo/cohort --out audit
    """
    with reported():
        settings = read_recipe(recipe, overrides)
        if dry_run:
            from flows.dry_run import plan_stage
            from pipeline.privacy.plan import plan_audit

            planned = partial(
                plan_audit, candidates, cohort, settings.audit, seed=settings.seed, checkpoint=checkpoint
            )
            emit(plan_stage("audit", planned, out, force=force))
            return
        from pipeline.privacy import run_audit

        reference = run_audit(
            candidates,
            cohort,
            out,
            settings.audit,
            seed=settings.seed,
            checkpoint=checkpoint,
            force=force,
        )
        _finish(reference, settings)


def release(
    candidates: Annotated[Path, typer.Argument(help="Candidates directory.", show_default=False)],
    *,
    audit: Annotated[
        Path, typer.Option("--audit", help="Audit directory of these candidates.", show_default=False)
    ],
    out: Out,
    formats: Annotated[
        str | None, typer.Option("--format", help="Output formats, separated by commas.", show_default=False)
    ] = None,
    policy: Annotated[
        str | None, typer.Option("--policy", help="Gate policy: strict (PASS only) or research.")
    ] = None,
    recipe: RecipeName = _DEFAULT_RECIPE,
    overrides: Overrides = None,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Write the accepted candidates as a dataset.

    Only if the audit's verdict and the gate policy allow it; FAIL is never released.

    \b
    Example:
      phosphor release runs/demo/candidates --audit runs/demo/audit --out runs/demo/release --policy research
    """
    with reported():
        options = {
            "release.formats": [name.strip() for name in formats.split(",")] if formats else None,
            "release.policy": policy,
        }
        settings = read_recipe(recipe, overrides, options)
        if dry_run:
            from flows.dry_run import plan_stage
            from pipeline.release.plan import plan_release

            planned = partial(plan_release, candidates, audit, settings.release, seed=settings.seed)
            emit(plan_stage("release", planned, out, force=force))
            return
        from pipeline.recipe import public_recipe
        from pipeline.release import run_release

        emit(
            run_release(
                candidates,
                audit,
                out,
                settings.release,
                seed=settings.seed,
                force=force,
                provenance=public_recipe(settings),
            )
        )


def evaluate(
    release: Annotated[Path, typer.Argument(help="Release directory.", show_default=False)],
    *,
    cohort: CohortPath,
    out: Out,
    test_cohorts: TestCohorts = None,
    recipe: RecipeName = _DEFAULT_RECIPE,
    overrides: Overrides = None,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Evaluate a release.

    Measures fidelity, utility and label agreement with its cohort. With --test-cohort, the same classifiers
    are also tested on all scans of the cohort of another site.

    \b
    Example:
      phosphor evaluate runs/demo/release --cohort runs/demo/cohort --out runs/demo/evaluation --recipe smoke
      phosphor evaluate runs/demo/release --cohort runs/demo/cohort --test-cohort runs/other/cohort --out ev
    """
    with reported():
        settings = read_recipe(recipe, overrides)
        external = test_cohorts or []
        if dry_run:
            from flows.dry_run import plan_stage
            from pipeline.evaluate.plan import plan_evaluate

            planned = partial(
                plan_evaluate, release, cohort, settings.evaluate, seed=settings.seed, external=external
            )
            emit(plan_stage("evaluate", planned, out, force=force))
            return
        from pipeline.artifacts.evaluation_report import external_verdicts
        from pipeline.evaluate import run_evaluate

        reference = run_evaluate(
            release,
            cohort,
            out,
            settings.evaluate,
            seed=settings.seed,
            force=force,
            external=external,
        )
        _finish(reference, settings, **external_verdicts(reference.path))


def _given(options: list[str] | None) -> dict[str, str | list[str]] | None:
    """Return the mapping of `--given NAME=VALUE` options, None without any."""
    given: dict[str, str | list[str]] = {}
    for option in options or ():
        name, equals, value = (part.strip() for part in option.partition("="))
        if not equals or not name or name in given:
            raise UsageError(
                "is not NAME=VALUE, or names something twice",
                field="--given",
                value=option,
                remedy="Example: --given sex=F --given findings=effusion,mass.",
            )
        several = [part.strip() for part in value.split(",") if part.strip()]
        given[name] = several if name == "findings" else value
    return given or None


def _finish(reference: Reference, recipe: Recipe, **more: Any) -> None:
    """Write the resolved recipe beside a stage's output and print the reference and `more`, once per job."""
    from pipeline.distributed.process_group import place_of_process
    from pipeline.recipe import keep_recipe

    if place_of_process().rank:
        return
    keep_recipe(reference.path, recipe)
    emit(reference, **more)
