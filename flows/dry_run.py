"""`--dry-run`: what each stage would do with its directory, and what that is expected to cost."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline import records
from pipeline.config import Settings
from pipeline.cost import speed
from pipeline.cost.estimate import (
    PREFECT_BYTES,
    Estimate,
    Workload,
    estimate_audit,
    estimate_edit,
    estimate_evaluate,
    estimate_release,
    estimate_report,
    estimate_sample,
    estimate_train,
    foresee_ingest,
    workload_of_cohort,
)
from pipeline.errors import DataError
from pipeline.privacy.earlier_inputs import earlier_input
from pipeline.recipe import Recipe
from pipeline.replacing import may_be_replaced
from pipeline.stage import INPUTS_NAME, REFERENCE_NAME, load_reference
from pipeline.storage import free_bytes, read_json
from pipeline.train.fine_tuning import start_digest

if TYPE_CHECKING:
    from pipeline.manifest import Manifest

# The temporary server imports all of Prefect, migrates its database, and then starts its services.
_SERVER_PER_IMPORT = 6.0


@dataclass(frozen=True)
class Step:
    """One stage of a plan.

    Attributes:
        stage: name; out: its directory; state: `new`, `resume`, `reuse`, `refuse` (it holds an output of
            other inputs) or, under --force, `replace`.
        cost: estimated need; zero for what is reused.
    """

    stage: str
    out: Path
    state: str
    cost: Estimate


def plan_run(recipe: Recipe, manifest: Manifest, folder: Path, *, force: bool = False) -> dict[str, Any]:
    """Plan a whole run; print it on stderr and return it as JSON-serialisable values. Nothing is written."""
    startup = _startup_seconds(with_server=True)
    states = _states(recipe, manifest, folder)
    cohort = folder / "cohort"
    if states["cohort"] == "reuse":
        work, ingest = _known_cohort(cohort), Estimate(0.0, 0, 0)
    else:
        work, ingest = foresee_ingest(manifest, recipe.ingest)
    count = recipe.sample.candidates_per_class * work.num_classes
    costs: dict[str, Callable[[], Estimate]] = {
        "cohort": lambda: ingest,
        "checkpoint": lambda: estimate_train(recipe, work),
        "candidates": lambda: estimate_sample(recipe, work),
        "audit": lambda: estimate_audit(recipe, work, count, with_checkpoint=True),
        "release": lambda: estimate_release(work, recipe.sample.per_class * work.num_classes),
        "evaluation": lambda: estimate_evaluate(recipe, work),
    }
    steps = [
        Step(name, folder / name, states[name], _if_needed(states[name], cost))
        for name, cost in costs.items()
    ]
    steps.append(Step("report", folder / "report.html", "new", estimate_report()))
    return _told(steps, folder, startup, PREFECT_BYTES, force=force)


def plan_stages(
    recipe: Recipe,
    outs: Mapping[str, Path],
    *,
    force: bool = False,
    manifest: Manifest | None = None,
    cohort: Path | None = None,
    checkpoint: Path | None = None,
    candidates: Path | None = None,
    audit: Path | None = None,
    release: Path | None = None,
    classes: tuple[str, ...] | None = None,
    source: Path | None = None,
) -> dict[str, Any]:
    """Plan one stage from the finished outputs it reads; print it on stderr and return it.

    Raises:
        DataError: an input is not a finished output.
    """
    startup = _startup_seconds(with_server=False)
    ((verb, out),) = outs.items()
    if verb == "ingest":
        assert manifest is not None
        state = _state(
            records.CohortRef, out, recipe.ingest.content_settings(), None, {"manifest": manifest.digest()}
        )
        cost = Estimate(0.0, 0, 0) if state == "reuse" else foresee_ingest(manifest, recipe.ingest)[1]
    elif verb == "train":
        assert cohort is not None
        reference = load_reference(records.CohortRef, cohort)
        state = _train_state(recipe, out, reference.digest)
        cost = _if_needed(state, lambda: estimate_train(recipe, _known_cohort(cohort)))
    elif verb == "sample":
        assert checkpoint is not None
        made = load_reference(records.CheckpointRef, checkpoint)
        drawn = {"checkpoint": made.digest, "classes": ",".join(classes) if classes else None}
        state = _state(records.CandidatesRef, out, recipe.sample, recipe.seed, drawn)
        trained, work = _known_checkpoint(recipe, checkpoint, classes)
        cost = _if_needed(state, lambda: estimate_sample(trained, work))
    elif verb == "edit":
        assert checkpoint is not None and source is not None
        state, cost = _edit_state_and_cost(recipe, out, checkpoint, source)
    elif verb == "audit":
        assert candidates is not None and cohort is not None
        count = _count_candidates(candidates)
        reference = load_reference(records.CohortRef, cohort)
        read = {"cohort": reference.digest, **earlier_input(recipe.audit)}
        state = _state(records.AuditRef, out, recipe.audit.content_settings(), recipe.seed, read)
        work, attacked = _known_cohort(cohort), checkpoint is not None
        cost = _if_needed(state, lambda: estimate_audit(recipe, work, count, with_checkpoint=attacked))
    elif verb == "release":
        assert candidates is not None and audit is not None
        state = _release_state(recipe, out, candidates, audit)
        cost = _if_needed(state, lambda: _release_cost(candidates, audit))
    else:
        assert release is not None and cohort is not None
        released = load_reference(records.ReleaseRef, release)
        inputs = {"release": released.digest, "cohort": load_reference(records.CohortRef, cohort).digest}
        state = _state(records.EvaluationRef, out, recipe.evaluate, recipe.seed, inputs)
        cost = _if_needed(state, lambda: estimate_evaluate(recipe, _known_cohort(cohort)))
    return _told([Step(verb, out, state, cost)], out, startup, 0, force=force)


def _states(recipe: Recipe, manifest: Manifest, folder: Path) -> dict[str, str]:
    """Say what a run would do with each of its directories, as far as it can be known beforehand."""
    seed = recipe.seed
    states: dict[str, str] = {}
    digests: dict[str, str] = {}
    plan: list[tuple[type[records.Reference], Settings, int | None, tuple[str, ...]]] = [
        (records.CohortRef, recipe.ingest.content_settings(), None, ()),
        (records.CheckpointRef, recipe.train.content_settings(), seed, ("cohort",)),
        (records.CandidatesRef, recipe.sample, seed, ("checkpoint",)),
        (records.AuditRef, recipe.audit.content_settings(), seed, ("candidates", "cohort")),
    ]
    for kind, settings, drawn, needed in plan:
        inputs: dict[str, str | None] = {role: digests.get(role, "") for role in needed}
        if kind is records.CohortRef:
            inputs = {"manifest": manifest.digest()}
        elif kind is records.CheckpointRef:
            inputs["init_from"] = start_digest(recipe.train)
        elif kind is records.AuditRef:
            inputs |= earlier_input(recipe.audit)
        states[kind.stage] = _state(kind, folder / kind.stage, settings, drawn, inputs)
        if states[kind.stage] == "reuse":
            digests[kind.stage] = load_reference(kind, folder / kind.stage).digest
    out = folder / "release"
    complete = {"audit", "candidates"} <= set(digests)
    if complete:
        states["release"] = _release_state(recipe, out, folder / "candidates", folder / "audit")
    else:
        states["release"] = "refuse" if (out / REFERENCE_NAME).is_file() else "new"
    if states["release"] == "reuse":
        digests["release"] = load_reference(records.ReleaseRef, out).digest
    inputs = {role: digests.get(role, "") for role in ("release", "cohort")}
    states["evaluation"] = _state(records.EvaluationRef, folder / "evaluation", recipe.evaluate, seed, inputs)
    return states


def _state(
    kind: type[records.Reference],
    out: Path,
    settings: Settings,
    seed: int | None,
    inputs: Mapping[str, str | None],
) -> str:
    """Compare what an output directory says it was made from with what would go into it now."""
    path = out / INPUTS_NAME
    if not path.is_file():
        return "refuse" if out.is_dir() and any(out.iterdir()) else "new"
    recorded = read_json(path, role=kind.stage)
    same = (
        recorded.get("stage") == kind.stage
        and recorded.get("version") == kind.version
        and recorded.get("settings") == settings.model_dump(mode="json")
        and recorded.get("seed") == seed
        and all(recorded.get("inputs", {}).get(role) == digest for role, digest in inputs.items())
    )
    if not same:
        return "refuse"
    return "reuse" if (out / REFERENCE_NAME).is_file() else "resume"


def _train_state(recipe: Recipe, out: Path, cohort_digest: str) -> str:
    inputs = {"cohort": cohort_digest, "init_from": start_digest(recipe.train)}
    return _state(records.CheckpointRef, out, recipe.train.content_settings(), recipe.seed, inputs)


def _release_state(recipe: Recipe, out: Path, candidates: Path, audit: Path) -> str:
    from pipeline.release import release_inputs_digest

    try:
        present = load_reference(records.ReleaseRef, out)
    except DataError:
        return "refuse" if out.is_dir() and any(out.iterdir()) else "new"
    wanted = release_inputs_digest(
        load_reference(records.CandidatesRef, candidates).digest,
        load_reference(records.AuditRef, audit).digest,
        recipe.release,
        seed=recipe.seed,
    )
    return "reuse" if present.inputs_digest == wanted else "refuse"


def _edit_state_and_cost(recipe: Recipe, out: Path, checkpoint: Path, source: Path) -> tuple[str, Estimate]:
    from pipeline.edit import plan_edit

    made = load_reference(records.CheckpointRef, checkpoint)
    plan = plan_edit(made, source, recipe.edit, seed=recipe.seed)
    state = _state(records.CandidatesRef, out, plan.settings, recipe.seed, plan.inputs)
    trained, work = _known_checkpoint(recipe, checkpoint, None)
    return state, _if_needed(state, lambda: estimate_edit(trained, work, len(plan.sources)))


def _release_cost(candidates: Path, audit: Path) -> Estimate:
    from pipeline.artifacts.candidates import Candidates
    from pipeline.artifacts.privacy_report import read_privacy_report

    pixels = Candidates(candidates).shards
    accepted = sum(part.accepted for part in read_privacy_report(audit).classes.values())
    _, height, width = pixels.image_shape
    work = Workload(0, 0, 0, 0, 0, 1, (height, width), pixels.dtype.itemsize)
    return estimate_release(work, accepted)


def _known_cohort(cohort: Path) -> Workload:
    from pipeline.artifacts.cohort import Cohort

    return workload_of_cohort(Cohort(cohort).info)


def _known_checkpoint(
    recipe: Recipe, checkpoint: Path, classes: tuple[str, ...] | None
) -> tuple[Recipe, Workload]:
    """Return the recipe with the checkpoint's own network, and the classes and image size to draw."""
    from pipeline.artifacts.checkpoint import read_checkpoint_info

    info = read_checkpoint_info(checkpoint)
    fields = {key: value for key, value in info.network.items() if key in type(recipe.train).model_fields}
    train = type(recipe.train).model_validate(
        {**recipe.train.model_dump(), **fields, "precision": info.precision}
    )
    drawn = len(classes or info.classes)
    work = Workload(0, 0, 0, 0, 0, drawn, info.image_size, info.bit_depth // 8)
    return recipe.model_copy(update={"train": train}), work


def _count_candidates(candidates: Path) -> int:
    if (candidates / REFERENCE_NAME).is_file():
        return load_reference(records.CandidatesRef, candidates).counts.get("candidates", 0)
    return sum(1 for path in candidates.rglob("*") if path.suffix.lower() in {".png", ".jpg", ".jpeg"})


def _if_needed(state: str, cost: Callable[[], Estimate]) -> Estimate:
    return Estimate(0.0, 0, 0) if state == "reuse" else cost()


def _startup_seconds(*, with_server: bool) -> float:
    """Return how long a command takes to get going, measured on the imports that it needs."""
    started = time.perf_counter()
    import models.diffusion.denoiser  # noqa: F401

    networks = time.perf_counter() - started
    if not with_server:
        return networks
    from flows.server import configured_api_url, set_quiet_environment

    set_quiet_environment()
    started = time.perf_counter()
    url = configured_api_url()
    imported = max(time.perf_counter() - started, 0.5)
    return imported + (networks if url else max(networks, _SERVER_PER_IMPORT * imported))


def _told(
    steps: list[Step], folder: Path, startup: float, extra_memory: int, *, force: bool
) -> dict[str, Any]:
    """Print a plan as a table on stderr; return it as JSON-serialisable values."""
    steps = [
        replace(step, state="replace")
        if force and step.state == "refuse" and may_be_replaced(step.out)
        else step
        for step in steps
    ]
    seconds = startup + sum(step.cost.seconds for step in steps)
    memory = max(*(step.cost.memory_bytes for step in steps), speed.resident_bytes()) + extra_memory
    disk = sum(step.cost.disk_bytes for step in steps)
    free = free_bytes(folder.absolute())
    lines = [f"{'stage':<12}{'state':<9}{'time':>10}{'memory':>12}{'disk':>12}"]
    for step in steps:
        cost = step.cost
        lines.append(
            f"{step.stage:<12}{step.state:<9}{_time(cost.seconds):>10}"
            f"{_bytes(cost.memory_bytes):>12}{_bytes(cost.disk_bytes):>12}"
        )
    lines.append(f"{'start':<12}{'':<9}{_time(startup):>10}")
    lines.append(f"{'in all':<12}{'':<9}{_time(seconds):>10}{_bytes(memory):>12}{_bytes(disk):>12}")
    lines.append(f"free disk: {_bytes(free)}. Nothing was written.")
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
                "stage": step.stage,
                "out": str(step.out),
                "state": step.state,
                "seconds": round(step.cost.seconds, 1),
                "memory_bytes": step.cost.memory_bytes,
                "disk_bytes": step.cost.disk_bytes,
            }
            for step in steps
        ],
    }


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _bytes(count: int) -> str:
    return f"{count / 2**20:.1f} MiB" if count < 2**30 else f"{count / 2**30:.1f} GiB"
