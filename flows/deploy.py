"""Registers the flow with a Prefect server, so that a worker runs it on request or on a schedule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from flows.server import answers, configured_api_url, set_quiet_environment
from pipeline.errors import UsageError
from pipeline.manifest import load_manifest

PREFECT_FILE = Path(__file__).with_name("prefect.yaml")


def register_deployment(
    manifest: Path,
    *,
    work_pool: str,
    recipe: str,
    out: Path | None,
    name: str | None,
    cron: str | None,
    overrides: list[str],
) -> dict[str, Any]:
    """Register the deployment that `flows/prefect.yaml` describes, with these parameters.

    The worker imports the flow by module (`flows.run.phosphor_run`), so Phosphor must be installed there, and
    reads manifest and data at the same paths. The gate policy is strict.

    Returns:
        Name, id, entrypoint, parameters and schedule of the deployment.

    Raises:
        UsageError: no server is configured or it does not answer, the work pool does not exist, or the cron
            expression is wrong.
    """
    set_quiet_environment()
    url = configured_api_url()
    if not url:
        raise UsageError(
            "a deployment needs a permanent Prefect server",
            field="PREFECT_API_URL",
            remedy="Run `prefect server start`, then set PREFECT_API_URL=http://127.0.0.1:4200/api.",
        )
    if not answers(url):
        raise UsageError(
            "the Prefect API does not answer", field="PREFECT_API_URL", remedy="Start the server."
        )
    described = load_manifest(manifest)
    _check_pool(work_pool)
    template = yaml.safe_load(PREFECT_FILE.read_text(encoding="utf-8"))["deployments"][0]
    parameters = {
        **template["parameters"],
        "manifest": str(manifest.absolute()),
        "recipe": recipe,
        "out": str(out.absolute()) if out else None,
        "overrides": overrides,
    }
    from prefect.deployments.runner import RunnerDeployment
    from prefect.types.entrypoint import EntrypointType

    from flows.run import phosphor_run

    try:
        deployment = RunnerDeployment.from_flow(
            phosphor_run,
            name=name or f"{described.name}-{Path(recipe).stem}",
            cron=cron,
            parameters=parameters,
            description=template["description"],
            tags=template["tags"],
            entrypoint_type=EntrypointType.MODULE_PATH,
        )
    except ValueError as error:
        raise UsageError(
            "not a cron expression", field="--cron", value=cron, remedy='Example: "0 3 * * 1".'
        ) from error
    identity = deployment.apply(work_pool_name=work_pool)
    return {
        "stage": "deployment",
        "id": str(identity),
        "name": f"{phosphor_run.name}/{deployment.name}",
        "entrypoint": deployment.entrypoint,
        "work_pool": work_pool,
        "cron": cron,
        "parameters": parameters,
    }


def _check_pool(name: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.exceptions import ObjectNotFound

    with get_client(sync_client=True) as client:
        try:
            client.read_work_pool(name)
        except ObjectNotFound as error:
            raise UsageError(
                "no work pool of this name",
                field="--work-pool",
                value=name,
                remedy=f"Create it with: prefect work-pool create --type process {name}",
            ) from error
