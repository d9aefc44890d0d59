"""Deployments: registered by module entrypoint, strict, and refused with the remedy where they cannot be."""

from __future__ import annotations

import contextlib
from pathlib import Path
from uuid import UUID

import pytest
import yaml

from flows.deploy import PREFECT_FILE
from tests.flows.conftest import PHANTOM, Call


@pytest.fixture
def work_pool(prefect_api: str) -> str:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    with get_client(sync_client=True) as client, contextlib.suppress(ObjectAlreadyExists):
        client.create_work_pool(WorkPoolCreate(name="lab", type="process"))
    return "lab"


def test_a_deployment_is_registered_with_its_module_schedule_and_a_strict_gate(
    work_pool: str, tmp_path: Path, call: Call
) -> None:
    done = call(
        "deploy", PHANTOM, "--work-pool", work_pool, "--cron", "0 3 * * 1", "--out", tmp_path / "weekly",
        "--recipe", "cpu", "--set", "seed=5",
    )  # fmt: skip
    assert done.code == 0, done.err
    from prefect.client.orchestration import get_client

    with get_client(sync_client=True) as client:
        stored = client.read_deployment(UUID(done.last_line["id"]))
    assert stored.entrypoint == "flows.run.phosphor_run"
    assert stored.work_pool_name == work_pool
    assert stored.parameters == {
        "manifest": str(PHANTOM),
        "recipe": "cpu",
        "out": str(tmp_path / "weekly"),
        "overrides": ["seed=5"],
        "policy": "strict",
        "force": False,
    }
    assert stored.schedules[0].schedule.cron == "0 3 * * 1"


def test_the_entrypoint_of_the_deployment_file_is_the_flow(prefect_api: str) -> None:
    from prefect.flows import load_flow_from_entrypoint

    template = yaml.safe_load(PREFECT_FILE.read_text())["deployments"][0]
    flow = load_flow_from_entrypoint(template["entrypoint"])
    assert flow.name == "phosphor"
    assert set(template["parameters"]) <= set(flow.parameters.properties)
    assert template["parameters"]["policy"] == "strict"
    assert flow.parameters.properties["policy"]["default"] == "strict"


def test_a_work_pool_that_is_not_there_exits_2_and_says_how_to_make_it(prefect_api: str, call: Call) -> None:
    done = call("deploy", PHANTOM, "--work-pool", "nowhere")
    assert done.code == 2
    assert "prefect work-pool create --type process nowhere" in done.err


def test_a_wrong_cron_expression_exits_2(work_pool: str, call: Call) -> None:
    done = call("deploy", PHANTOM, "--work-pool", work_pool, "--cron", "every monday")
    assert (done.code, "--cron" in done.err, "Traceback" in done.err) == (2, True, False)


def test_without_a_lasting_server_nothing_is_deployed(call: Call) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings(restore_defaults={PREFECT_API_URL}):
        done = call("deploy", PHANTOM, "--work-pool", "lab")
    assert done.code == 2
    assert "PREFECT_API_URL" in done.err
    assert "prefect server start" in done.err
