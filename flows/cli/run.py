"""The commands around the flow: `run` it here, `deploy` it to a Prefect server."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from flows.cli.options import (
    DryRun,
    Force,
    Overrides,
    RecipeName,
    TestCohorts,
    emit,
    read_recipe,
    reported,
    with_shorthand,
)
from flows.logs import debugging

RESULTS_NAME = ".prefect-results"


def run(
    manifest: Annotated[Path, typer.Argument(help="Data manifest (YAML).", show_default=False)],
    *,
    recipe: RecipeName = "cpu",
    out: Annotated[
        Path | None, typer.Option("--out", help="Run directory; else runs/<manifest name>-<recipe>.")
    ] = None,
    test_cohorts: TestCohorts = None,
    overrides: Overrides = None,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Run the whole pipeline and write one report.

    Ingest, train, sample, audit, release, evaluate, as a Prefect flow. With --test-cohort, the evaluation's
    classifiers are also tested on all scans of the finished cohort of another site.

    A second run with the same inputs reuses finished stages; an interrupted run resumes. If the privacy gate
    refuses, nothing is released, the report is still written, and the exit code is 4.

    \b
    Example:
      phosphor run data_manifests/phantom.yaml --recipe smoke --out runs/demo --set train.num_steps=100
    """
    with reported():
        from pipeline.distributed.process_group import require_alone
        from pipeline.manifest import load_manifest

        require_alone("run")
        settings = read_recipe(recipe, overrides)
        described = load_manifest(manifest)
        folder = out if out is not None else _default_out(described.name, recipe)
        if dry_run:
            from flows.dry_run import plan_run

            emit(plan_run(settings, described, folder, external=test_cohorts or [], force=force))
            return
        emit(
            run_flow(
                {
                    "manifest": str(manifest),
                    "recipe": recipe,
                    "out": str(folder),
                    "overrides": list(overrides or []),
                    "policy": settings.release.policy.value,
                    "test_cohorts": [str(path.absolute()) for path in test_cohorts or []],
                    "force": force,
                }
            )
        )


def study(
    manifest: Annotated[Path, typer.Argument(help="Data manifest (YAML).", show_default=False)],
    *,
    recipe: RecipeName = "study",
    out: Annotated[
        Path | None, typer.Option("--out", help="Directory; else runs/<manifest name>-<recipe>.")
    ] = None,
    regime: Annotated[
        str | None,
        typer.Option("--regime", help="Regimes: shared, self, imbalanced; several with commas."),
    ] = None,
    sizes: Annotated[
        str | None, typer.Option("--sizes", help="Train scans a class of a site, such as 20,50,100,all.")
    ] = None,
    draws: Annotated[int | None, typer.Option("--draws", help="Random sites per regime and size.")] = None,
    release: Annotated[
        Path | None,
        typer.Option("--release", help="Release for the shared regime, instead of training a generator."),
    ] = None,
    overrides: Overrides = None,
    force: Force = False,
    dry_run: DryRun = False,
) -> None:
    """Ask whether synthetic data help at different numbers of real scans.

    A study draws small sites from a large cohort, gives each a generator or a release, trains classifiers
    with and without synthetic images, and reports the change in test AUC against the best use of real scans.

    A second call reuses what is finished; an interrupted or time-limited study goes on.

    \b
    Example:
      phosphor study data_manifests/phantom.yaml --regime shared,self --sizes 20,50 --draws 3
    """
    with reported():
        from pipeline.distributed.process_group import require_alone
        from pipeline.manifest import load_manifest

        require_alone("study")
        chosen = {
            "study.regimes": regime.split(",") if regime else None,
            "study.sizes": [_size(part) for part in sizes.split(",")] if sizes else None,
            "study.draws": draws,
        }
        every = with_shorthand(overrides, chosen)
        settings = read_recipe(recipe, every)
        described = load_manifest(manifest)
        folder = out if out is not None else _default_out(described.name, recipe)
        if dry_run:
            from flows.study_plan import plan_study

            emit(plan_study(settings, described, folder, release=release))
            return

        def call() -> dict[str, Any]:
            from flows.study import phosphor_study

            done = phosphor_study(
                str(manifest),
                recipe=recipe,
                out=str(folder),
                overrides=every,
                release=None if release is None else str(release.absolute()),
                force=force,
            )
            return {"stage": "study", **done}

        body = with_prefect(folder, call)
        sys.stderr.write(f"Report: {body['report']}\n")
        emit(body)


def _size(text: str) -> int | str:
    return int(text) if text.strip().isdecimal() else text.strip()


def run_flow(parameters: dict[str, Any]) -> dict[str, Any]:
    """Run the flow in this process against the user's Prefect API or a temporary one; return its result.

    Raises:
        GateRefusedError: nothing was released; the JSON line with the report's path is printed before.
    """
    from pipeline.errors import GateRefusedError

    folder = Path(parameters["out"]).absolute()

    def call() -> dict[str, Any]:
        from flows.run import phosphor_run

        try:
            return {"stage": "run", "released": True, **phosphor_run(**parameters)}
        except GateRefusedError:
            report = folder / "report.html"
            emit({"stage": "run", "released": False, "path": str(folder), "report": str(report)})
            sys.stderr.write(f"Report: {report}\n")
            raise

    body = with_prefect(folder, call)
    sys.stderr.write(f"Report: {body['report']}\n")
    return body


def with_prefect(folder: Path, call: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Call a flow in this process against the user's Prefect API or a temporary one; return its result.

    Args:
        folder: output directory, which holds Prefect's results.
        call: imports and calls the flow.
    """
    from flows.server import api_server, flush_to_api, set_quiet_environment
    from pipeline.storage import make_private_directory

    folder = folder.absolute()
    # The folder may exist and be shared, and Prefect does not set the mode of its files.
    results = make_private_directory(make_private_directory(folder) / RESULTS_NAME)
    set_quiet_environment(console=debugging())
    from prefect.settings import PREFECT_LOCAL_STORAGE_PATH, temporary_settings

    with temporary_settings({PREFECT_LOCAL_STORAGE_PATH: results}), api_server(folder) as wait_until_ready:
        # The network libraries take as long to import as the server takes to start.
        import flows.tasks  # noqa: F401
        import models.diffusion.denoiser  # noqa: F401
        from flows.results import drop_torn_results

        drop_torn_results(results)
        wait_until_ready()
        try:
            return call()
        finally:
            flush_to_api()


def deploy(
    manifest: Annotated[
        Path, typer.Argument(help="Data manifest that the deployment runs by default.", show_default=False)
    ],
    *,
    work_pool: Annotated[
        str, typer.Option("--work-pool", help="Existing Prefect work pool.", show_default=False)
    ],
    recipe: RecipeName = "gpu",
    out: Annotated[Path | None, typer.Option("--out", help="Run directory on the worker.")] = None,
    name: Annotated[str | None, typer.Option("--name", help="Deployment name; else the manifest's.")] = None,
    cron: Annotated[
        str | None, typer.Option("--cron", help='Schedule, for example "0 3 * * 1".', show_default=False)
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Register the flow on a Prefect server.

    The deployment goes to the server of PREFECT_API_URL; its gate is strict.

    \b
    Example:
      phosphor deploy data_manifests/phantom.yaml --work-pool gpu-nodes --cron "0 3 * * 1"
    """
    with reported():
        from flows.deploy import register_deployment

        read_recipe(recipe, overrides)
        emit(
            register_deployment(
                manifest,
                work_pool=work_pool,
                recipe=recipe,
                out=out,
                name=name,
                cron=cron,
                overrides=list(overrides or []),
            )
        )


def _default_out(manifest_name: str, recipe: str) -> Path:
    return Path("runs") / f"{manifest_name}-{Path(recipe).stem}"
