"""Contents of a run folder: each output that is finished and consistent, or why it is not shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

from pipeline.append_log import EXTERNAL_READS_NAME, READS_NAME, log_beside
from pipeline.artifacts.candidates import Candidates
from pipeline.artifacts.checkpoint import CheckpointInfo, read_checkpoint_info
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.evaluation_report import (
    EvaluationReport,
    count_external_reads,
    count_reads,
    read_evaluation_report,
)
from pipeline.artifacts.privacy_report import PrivacyReport, read_privacy_report
from pipeline.errors import DataError, PhosphorError
from pipeline.records import (
    AuditRef,
    CandidatesRef,
    CheckpointRef,
    CohortRef,
    EvaluationRef,
    Reference,
    ReleaseRef,
)
from pipeline.stage import INPUTS_NAME, REFERENCE_NAME, load_reference
from pipeline.storage import read_json

if TYPE_CHECKING:
    import pandas as pd

STAGES = ("cohort", "checkpoint", "candidates", "audit", "release", "evaluation")
NOT_MADE = "not made"
LEFT_OVER = "left over from"
AUDIT_COLUMNS = ("sample_id", "class", "accepted", "reason", "nearest_row", "nearest_sample_id")
MAX_TEXT_BYTES = 2**20

_KINDS: dict[str, type[Reference]] = {
    "cohort": CohortRef,
    "checkpoint": CheckpointRef,
    "candidates": CandidatesRef,
    "audit": AuditRef,
    "release": ReleaseRef,
    "evaluation": EvaluationRef,
}
T = TypeVar("T")


@dataclass
class RunFolder:
    """The outputs of a run that are finished and belong together.

    Attributes:
        path: the run folder.
        references: stage -> reference, for each stage that is shown.
        absent: stage -> why it is not shown (`not made`, or a reason in words).
        inputs: stage -> its `inputs.json` (settings, seed, digests of what it read); empty if there is none.
        cohort: the opened cohort, None if absent.
        checkpoint: description of the checkpoint, None if absent.
        candidates: the opened candidates, None if absent.
        audit: report of the audit, None if absent.
        audit_table: one row per candidate with `accepted`, `reason`, nearest scan (private); None if absent.
        evaluation: report of the evaluation, None if absent.
        recipe_text: the resolved recipe, empty if there is none.
        recipe: the same as a mapping.
        seconds: stage -> wall time of its last run, if the run recorded it.
    """

    path: Path
    references: dict[str, Reference] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, dict[str, Any]] = field(default_factory=dict)
    cohort: Cohort | None = None
    checkpoint: CheckpointInfo | None = None
    candidates: Candidates | None = None
    audit: PrivacyReport | None = None
    audit_table: pd.DataFrame | None = None
    evaluation: EvaluationReport | None = None
    recipe_text: str = ""
    recipe: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def release(self) -> ReleaseRef | None:
        """The release that came out of this run's audit, if there is one."""
        reference = self.references.get("release")
        return reference if isinstance(reference, ReleaseRef) else None

    def settings(self, stage: str) -> dict[str, Any]:
        """Return the settings a stage was run with (empty if it recorded none)."""
        found = self.inputs.get(stage, {}).get("settings")
        return found if isinstance(found, dict) else {}

    def section(self, name: str) -> dict[str, Any]:
        """Return a section of the run's recipe (empty if the run has no recipe)."""
        found = self.recipe.get(name)
        return found if isinstance(found, dict) else {}


def open_run(path: Path) -> RunFolder:
    """Open the outputs of a run folder; missing or unreadable outputs are skipped.

    An output that was made from other inputs than those in the folder (left over from an earlier run) is not
    shown.

    Raises:
        DataError: the folder does not exist.
    """
    if not path.is_dir():
        raise DataError("is not a folder", field="run", value=str(path), remedy="Name the run's folder.")
    run = RunFolder(path)
    run.cohort = _tried(run, "cohort", Cohort)
    run.checkpoint = _tried(run, "checkpoint", read_checkpoint_info)
    run.candidates = _tried(run, "candidates", Candidates)
    run.audit = _tried(run, "audit", read_privacy_report)
    if run.audit is not None:
        run.audit_table = _audit_table(path / "audit", run.candidates)
    released = _tried(run, "release", read_privacy_report)
    run.evaluation = _tried(run, "evaluation", _evaluation)
    _drop_leftovers(run, released)
    run.recipe_text, run.recipe = _recipe(path / "recipe.yaml")
    run.seconds = _seconds(path / "timings.json")
    return run


def _evaluation(folder: Path) -> EvaluationReport:
    """Read an evaluation, with the reads of its test sets that were logged since."""
    report = read_evaluation_report(folder)
    log = log_beside(folder, EXTERNAL_READS_NAME)
    external = tuple(
        test.model_copy(update={"reads": max(test.reads, count_external_reads(log, test.digest))})
        for test in report.external
    )
    report = report.model_copy(update={"external": external})
    reads = count_reads(log_beside(folder, READS_NAME), report.cohort_digest)
    return report if reads["test_reads"] <= report.test_reads else report.model_copy(update=reads)


def _tried(run: RunFolder, stage: str, opener: Callable[[Path], T]) -> T | None:
    folder = run.path / stage
    if not (folder / REFERENCE_NAME).is_file():
        unfinished = folder.is_dir() and any(folder.iterdir())
        run.absent[stage] = "started, not finished" if unfinished else NOT_MADE
        return None
    try:
        reference = load_reference(_KINDS[stage], folder)
        opened = opener(folder)
        run.inputs[stage] = _inputs(folder, stage)
    except PhosphorError as error:
        # Only the problem: the full message may name folders of this machine.
        run.absent[stage] = f"cannot be read: {error.problem}"
        return None
    except (OSError, ValueError):
        run.absent[stage] = "cannot be read: a file is damaged"
        return None
    run.references[stage] = reference
    return opened


def _inputs(folder: Path, stage: str) -> dict[str, Any]:
    """Return the inputs and settings of an output, in the form of `inputs.json`.

    A release may be shared, so it has no `inputs.json`; its `provenance.json` holds the same.
    """
    released = stage == "release"
    path = folder / ("provenance.json" if released else INPUTS_NAME)
    body = read_json(path, role=stage) if path.is_file() else {}
    if not isinstance(body, dict):
        return {}
    return {"inputs": body.get("digests"), "settings": body.get("release_settings")} if released else body


def _audit_table(folder: Path, candidates: Candidates | None) -> pd.DataFrame | None:
    """Return the audit's table if it matches the candidates row by row, else None."""
    import pandas as pd

    try:
        table = pd.read_parquet(folder / "candidates.parquet")
    except (OSError, ValueError):
        return None
    if any(column not in table.columns for column in AUDIT_COLUMNS):
        return None
    if candidates is not None and list(table["sample_id"]) != list(candidates.table["sample_id"]):
        return None
    return table


def _drop_leftovers(run: RunFolder, released: PrivacyReport | None) -> None:
    """Remove every output that was made from other inputs than those now in the folder."""
    audit, evaluation = run.audit, run.evaluation
    made_from: dict[str, list[tuple[str, object]]] = {
        "checkpoint": [("cohort", run.checkpoint.cohort_digest)] if run.checkpoint else [],
        "candidates": [("checkpoint", _recorded(run, "candidates", "checkpoint"))],
        "audit": [("cohort", audit.cohort_digest), ("candidates", audit.candidates_digest)] if audit else [],
        "release": [
            ("candidates", released.candidates_digest if released else None),
            ("audit", _recorded(run, "release", "audit")),
        ],
        "evaluation": (
            [("cohort", evaluation.cohort_digest), ("release", evaluation.release_digest)]
            if evaluation
            else []
        ),
    }
    for stage in STAGES:
        for source, recorded in made_from.get(stage, []):
            beside = run.references.get(source)
            another = "other candidates" if source == "candidates" else f"another {source}"
            known = isinstance(recorded, str) and recorded != ""
            other = beside is not None and known and recorded != beside.digest
            if stage in run.references and (other or run.absent.get(source, "").startswith(LEFT_OVER)):
                _drop(run, stage, f"{LEFT_OVER} {another}, so it is not shown")
    if "evaluation" in run.references and "release" not in run.references:
        _drop(run, "evaluation", f"{LEFT_OVER} another release, so it is not shown")


def _recorded(run: RunFolder, stage: str, source: str) -> object:
    inputs = run.inputs.get(stage, {}).get("inputs")
    return inputs.get(source) if isinstance(inputs, dict) else None


def _drop(run: RunFolder, stage: str, why: str) -> None:
    run.references.pop(stage, None)
    run.absent[stage] = why
    if stage == "audit":
        run.audit_table = None
    if stage != "release":
        setattr(run, stage, None)


def _recipe(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        if path.stat().st_size > MAX_TEXT_BYTES:
            return "", {}
        text = path.read_text(encoding="utf-8")
        body = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError):
        return "", {}
    return text, body if isinstance(body, dict) else {}


def _seconds(path: Path) -> dict[str, float]:
    if not path.is_file():
        return {}
    try:
        body = read_json(path, role="timings")
    except PhosphorError:
        return {}
    if not isinstance(body, dict):
        return {}
    return {
        str(stage): float(seconds)
        for stage, seconds in body.items()
        if isinstance(seconds, int | float) and not isinstance(seconds, bool) and seconds >= 0
    }
