"""`--dry-run`: what each stage would do with its directory, and the estimated time, memory and disk."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.cost.estimate import NOTHING, Cost, StagePlan, estimate_report
from pipeline.cost.memory import bytes_words, resident_bytes
from pipeline.evaluate.plan import plan_evaluate
from pipeline.ingest.plan import plan_ingest
from pipeline.privacy.plan import plan_audit
from pipeline.recipe import Recipe
from pipeline.release.plan import plan_release
from pipeline.sample.plan import plan_sample
from pipeline.stage import State, load_reference
from pipeline.storage import free_bytes
from pipeline.train.plan import plan_train

if TYPE_CHECKING:
    from pipeline.manifest import Manifest

_CLIENT_BYTES, _SERVER_BYTES = 100 * 2**20, 250 * 2**20
"""Resident memory of Prefect's client, and of its temporary server."""

_SERVER_PER_IMPORT = 6.0
"""The temporary server imports all of Prefect, migrates its database, and then starts its services."""

Plan = StagePlan[Any]


@dataclass(frozen=True)
class PlannedStage:
    """One stage of a plan, as it is shown.

    Attributes:
        stage: its name.
        out: its directory.
        state: what it would do with the directory.
        cost: estimated need; zero for what is reused.
        changes: in words, what has changed in its sources.
        note: in words, what its cost leaves out or what is to be expected.
    """

    stage: str
    out: Path
    state: State
    cost: Cost
    changes: str = ""
    note: str = ""


def plan_run(
    recipe: Recipe, manifest: Manifest, folder: Path, *, external: Sequence[Path] = (), force: bool = False
) -> dict[str, Any]:
    """Plan a whole run; print it on stderr and return it as JSON-serialisable values. Nothing is written.

    Args:
        recipe: settings of all stages.
        manifest: the data manifest.
        folder: the run directory.
        external: cohorts of other sites.
        force: whether outputs of other inputs are to be replaced.

    Raises:
        DataError: an external cohort is not a finished cohort.
    """
    startup, prefect_bytes = _start_with_prefect()
    seed = recipe.seed
    made: dict[str, Any] = {}
    plans: dict[str, Callable[[], Plan]] = {
        "cohort": lambda: plan_ingest(manifest, folder / "cohort", recipe.ingest),
        "checkpoint": lambda: plan_train(made["cohort"], recipe.train, seed=seed),
        "candidates": lambda: plan_sample(made["checkpoint"], recipe.sample, seed=seed),
        "audit": lambda: plan_audit(
            made["candidates"], made["cohort"], recipe.audit, seed=seed, checkpoint=made["checkpoint"]
        ),
        "release": lambda: plan_release(made["candidates"], made["audit"], recipe.release, seed=seed),
        "evaluation": lambda: plan_evaluate(
            made["release"], made["cohort"], recipe.evaluate, seed=seed, external=external
        ),
    }
    stages = []
    for name, plan_of in plans.items():
        plan, out = plan_of(), folder / name
        stages.append(_planned(name, plan, out, force=force))
        reused = stages[-1].state is State.REUSE
        made[name] = load_reference(plan.wanted.kind, out) if reused else plan.foresee()
    stages.append(PlannedStage("report", folder / "report.html", State.NEW, estimate_report()))
    return render_plan(stages, folder, startup, prefect_bytes)


def plan_stage(stage: str, plan_of: Callable[[], Plan], out: Path, *, force: bool = False) -> dict[str, Any]:
    """Plan one stage alone; print it on stderr and return it.

    Args:
        stage: name of the command.
        plan_of: makes the stage's plan.
        out: the output directory.
        force: whether an output of other inputs is to be replaced.

    Raises:
        DataError: an input is not a finished output.
    """
    startup = _start()
    return render_plan([_planned(stage, plan_of(), out, force=force)], out, startup, 0)


def _planned(stage: str, plan: Plan, out: Path, *, force: bool) -> PlannedStage:
    state = plan.wanted.state(out, force=force)
    if state is State.REUSE:
        return PlannedStage(stage, out, state, NOTHING)
    changes = plan.changes() if state in (State.REFUSE, State.REPLACE) else ""
    return PlannedStage(stage, out, state, plan.estimate(), changes, plan.note())


def _start() -> float:
    """Return the start-up time of a command, measured on the imports that it needs."""
    started = time.perf_counter()
    import models.diffusion.denoiser  # noqa: F401

    return time.perf_counter() - started


def _start_with_prefect() -> tuple[float, int]:
    """Return the start-up time of a run, and the memory of Prefect's processes."""
    from flows.server import configured_api_url, set_quiet_environment

    networks = _start()
    set_quiet_environment()
    started = time.perf_counter()
    url = configured_api_url()
    imported = max(time.perf_counter() - started, 0.5)
    if url:
        return imported + networks, _CLIENT_BYTES
    return imported + max(networks, _SERVER_PER_IMPORT * imported), _CLIENT_BYTES + _SERVER_BYTES


def render_plan(stages: list[PlannedStage], folder: Path, startup: float, more_bytes: int) -> dict[str, Any]:
    """Print a plan as a table on stderr; return it as JSON-serialisable values.

    Args:
        stages: what is planned, in order.
        folder: where the outputs go.
        startup: seconds until the first stage starts.
        more_bytes: memory of processes that run beside the stages.
    """
    seconds = startup + sum(stage.cost.seconds for stage in stages)
    memory = max(*(stage.cost.memory_bytes for stage in stages), resident_bytes()) + more_bytes
    disk = sum(stage.cost.disk_bytes for stage in stages)
    free = free_bytes(folder.absolute())
    lines = [f"{'stage':<12}{'state':<9}{'time':>10}{'memory':>12}{'disk':>12}"]
    for stage in stages:
        cost = stage.cost
        lines.append(
            f"{stage.stage:<12}{stage.state:<9}{_time(cost.seconds):>10}"
            f"{bytes_words(cost.memory_bytes):>12}{bytes_words(cost.disk_bytes):>12}"
        )
    lines.append(f"{'start':<12}{'':<9}{_time(startup):>10}")
    lines.append(f"{'in all':<12}{'':<9}{_time(seconds):>10}{bytes_words(memory):>12}{bytes_words(disk):>12}")
    lines += _notes(stages)
    lines.append(f"free disk: {bytes_words(free)}. Nothing was written.")
    if disk > free:
        lines.append("Not enough free disk: free space, or choose another --out.")
    sys.stderr.write("\n".join(lines) + "\n")
    return {
        "stage": "dry-run",
        "seconds": round(seconds, 1),
        "memory_bytes": memory,
        "disk_bytes": disk,
        "free_disk_bytes": free,
        "steps": [
            {
                "stage": stage.stage,
                "out": str(stage.out),
                "state": stage.state.value,
                "seconds": round(stage.cost.seconds, 1),
                "memory_bytes": stage.cost.memory_bytes,
                "disk_bytes": stage.cost.disk_bytes,
            }
            for stage in stages
        ],
    }


def _notes(stages: list[PlannedStage]) -> list[str]:
    """Return notes on what the table does not show: memory of an accelerator, unknown costs, new sources."""
    notes = []
    on_device = max(stage.cost.device_bytes for stage in stages)
    if on_device:
        notes.append(f"memory on the accelerator: up to {bytes_words(on_device)}, counted above.")
    notes += [f"{stage.stage}: {stage.note}." for stage in stages if stage.note]
    for place, stage in enumerate(stages):
        if stage.changes:
            later = [other.stage for other in stages[place + 1 :] if other.stage != "report"]
            again = ", then ".join(["ingest again", *([", ".join(later)] if later else [])])
            forced = "" if stage.state is State.REPLACE else " (give --force)"
            notes.append(f"{stage.changes}: {again}{forced}.")
    return notes


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
