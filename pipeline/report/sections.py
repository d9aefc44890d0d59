"""Tables of the report: the request, the cohort, training, cost, provenance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.arrays import Floats
from pipeline.artifacts.checkpoint import CheckpointInfo
from pipeline.records import SPLITS
from pipeline.rendering.formats import count, duration, plural
from pipeline.report.folder import STAGES, RunFolder
from pipeline.report.verdicts import policy_of

MADE_BY = {
    "cohort": "ingest",
    "checkpoint": "train",
    "candidates": "sample",
    "audit": "audit",
    "release": "release",
    "evaluation": "evaluate",
}
"""Output -> the stage (and command) that makes it."""

WHAT_IT_IS = {
    "cohort": "de-identified scans, split by patient",
    "checkpoint": "the trained denoiser",
    "candidates": "generated images, before any decision",
    "audit": "the privacy gate's measurements",
    "release": "accepted images; the only output that may be shared",
    "evaluation": "fidelity, utility and labels",
}


@dataclass(frozen=True)
class Fact:
    """A line of a definition table: its name and its value in words."""

    name: str
    value: str


@dataclass(frozen=True)
class StageRow:
    """An output of the run in the data flow.

    Attributes:
        name: the output.
        stage: the command that makes it.
        what: what it is, in words.
        digest: full sha256 of its content, empty if the output is absent.
        inputs_digest: full sha256 of its inputs, empty if the output is absent.
        counts: its counts in words.
        seconds: time its stage took, None if not recorded.
        absent: why it is not shown, empty if it is.
        settings: (name, value) of each of its settings.
    """

    name: str
    stage: str
    what: str
    digest: str
    inputs_digest: str
    counts: str
    seconds: float | None
    absent: str
    settings: tuple[tuple[str, str], ...]


def asked(run: RunFolder) -> list[Fact]:
    """Return what was requested of the run."""
    facts = []
    if run.cohort is not None:
        info = run.cohort.info
        facts.append(Fact("Cohort", f"{info.name}: {plural(info.num_scans, 'scan')} {_of_patients(run)}"))
        facts.append(Fact("Classes", ", ".join(info.classes)))
        height, width = info.image_size
        facts.append(Fact("Image size", f"{height} x {width} pixels, {info.bit_depth} bits"))
        if info.license:
            facts.append(Fact("Licence of the scans", info.license))
    per_class = run.settings("candidates").get("per_class")
    if run.audit is not None:
        wanted = ", ".join(f"{found.asked:,} {name}" for name, found in run.audit.classes.items())
        facts.append(Fact("Synthetic images requested", wanted))
    elif isinstance(per_class, int):
        facts.append(Fact("Synthetic images requested", f"{per_class:,} of each class"))
    policy = policy_of(run)
    if policy is not None:
        allowed = "PASS only" if policy.value == "strict" else "PASS, and INCONCLUSIVE with a notice"
        facts.append(Fact("Gate policy", f"{policy.value}: releases {allowed}"))
    seed = _seed(run)
    if seed is not None:
        facts.append(Fact("Run seed", str(seed)))
    return facts


def _of_patients(run: RunFolder) -> str:
    info = run.cohort.info if run.cohort is not None else None
    if info is None or not info.has_patient_ids:
        return "(patients not known)"
    return f"of {plural(info.num_patients, 'patient')}"


def _seed(run: RunFolder) -> object:
    found = run.recipe.get("seed")
    if found is None and run.checkpoint is not None:
        found = run.checkpoint.seed
    return found


def split_rows(run: RunFolder) -> list[tuple[str, list[str], str, str]]:
    """Return (split, scans by class, scans, patients) in words, one row per split."""
    if run.cohort is None:
        return []
    info = run.cohort.info
    rows = []
    for split in SPLITS:
        by_class = info.counts.get(split, {})
        patients = count(info.patients.get(split, 0)) if info.has_patient_ids else "not known"
        numbers = [count(by_class.get(name, 0)) for name in info.classes]
        rows.append((split, numbers, count(sum(by_class.values())), patients))
    return rows


def refusals(run: RunFolder) -> list[tuple[str, int]]:
    """Return (reason, scans) of the scans that ingest refused, most frequent first."""
    path = run.path / "cohort" / "rejected.parquet"
    if run.cohort is None or not path.is_file():
        return []
    import pandas as pd

    try:
        reasons = pd.read_parquet(path, columns=["reason"])["reason"]
    except (OSError, ValueError, KeyError):
        return []
    found = reasons.astype(str).value_counts()
    pairs = [(str(reason), int(number)) for reason, number in found.items()]
    return sorted(pairs, key=lambda pair: (-pair[1], pair[0]))


def training_facts(run: RunFolder, progress: dict[str, Floats]) -> list[Fact]:
    """Return facts about the training: size, steps, arithmetic, speed."""
    info = run.checkpoint
    if info is None:
        return []
    facts = [Fact("Optimiser steps", _steps(run.settings("checkpoint"), info))]
    reference = run.references["checkpoint"]
    if "parameters" in reference.counts:
        facts.append(Fact("Network", f"{reference.counts['parameters']:,} parameters"))
    layout = ", channels last" if info.channels_last else ""
    threads = f", {plural(info.num_threads, 'thread')}" if info.device == "cpu" else ""
    facts.append(Fact("Arithmetic", f"{info.precision}{layout} on {info.device}{threads}"))
    if progress:
        rate = float(np.median(progress["images_per_second"]))
        seconds = float(progress["seconds"][-1])
        facts.append(Fact("Speed", f"{rate:,.0f} images per second (median)"))
        facts.append(Fact("Time", duration(seconds)))
        if info.device != "cpu":
            facts.append(Fact("GPU hours", f"{seconds / 3600:.2f}"))
    return facts


def _steps(settings: dict[str, Any], info: CheckpointInfo) -> str:
    """Return the optimiser steps in words, and whether the time limit ended them early."""
    asked, minutes, done = settings.get("num_steps"), settings.get("max_minutes"), info.num_steps
    seen = f"{info.images_seen:,} images seen"
    # A training that stops because it memorises keeps weights from before its last step.
    memorised = bool(settings.get("stop_when_memorising")) and info.ema_step not in (None, done)
    if not isinstance(asked, int) or minutes is None or done >= asked or memorised:
        return f"{done:,} ({seen})"
    return (
        f"{done:,} of {asked:,} ({seen}): train.max_minutes={minutes:g} ended the training; with more time "
        "the images may become closer to the real ones"
    )


def cost_rows(run: RunFolder, progress: dict[str, Floats]) -> list[tuple[str, float, float, str]]:
    """Return (stage, seconds, share of the total, speed in words), one row per timed stage."""
    named = {MADE_BY[output]: output for output in STAGES}
    timed = []
    for key, seconds in run.seconds.items():
        output = key if key in STAGES else named.get(key, "")
        if output:
            timed.append((output, seconds))
    timed.sort(key=lambda pair: STAGES.index(pair[0]))
    total = sum(seconds for _, seconds in timed)
    rows = []
    for output, seconds in timed:
        rate = _rate(run, output, seconds)
        if output == "checkpoint" and progress:
            rate = f"{np.median(progress['images_per_second']):,.0f} images per second while training"
        rows.append((MADE_BY[output], seconds, seconds / total if total else 0.0, rate))
    return rows


def _rate(run: RunFolder, output: str, seconds: float) -> str:
    if output == "cohort" and run.cohort is not None and seconds > 0:
        return f"{run.cohort.info.num_scans / seconds:,.0f} scans per second"
    if output == "candidates" and run.candidates is not None and seconds > 0:
        return f"{len(run.candidates) / seconds:,.1f} images per second"
    return ""


def flow(run: RunFolder) -> list[StageRow]:
    """Return the data flow of the run: one row per output, in order, absent ones included."""
    return [_stage_row(run, name) for name in STAGES]


def _stage_row(run: RunFolder, name: str) -> StageRow:
    reference = run.references.get(name)
    shown = reference.counts if reference is not None else {}
    seconds = run.seconds.get(name, run.seconds.get(MADE_BY[name]))
    return StageRow(
        name=name,
        stage=MADE_BY[name],
        what=WHAT_IT_IS[name],
        digest=reference.digest if reference is not None else "",
        inputs_digest=reference.inputs_digest if reference is not None else "",
        counts=", ".join(f"{value:,} {key.replace('_', ' ')}" for key, value in shown.items()),
        seconds=seconds,
        absent=run.absent.get(name, ""),
        settings=tuple(_flat(run.settings(name))) if reference is not None else (),
    )


def _flat(settings: dict[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    lines: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, dict):
            lines.extend(_flat(value, f"{prefix}{key}."))
        elif isinstance(value, list):
            lines.append((prefix + key, ", ".join(str(part) for part in value)))
        else:
            lines.append((prefix + key, "none" if value is None else str(value)))
    return lines
