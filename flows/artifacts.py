"""Prefect artifacts of a run: the gate's verdict, synthetic images, the metrics.

They contain only aggregates and released images, no patient data, because the Prefect database is not one of
the private folders.
"""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

from prefect.artifacts import create_image_artifact, create_markdown_artifact, create_table_artifact

from pipeline.artifacts.evaluation_report import Estimate, EvaluationReport, Figure, read_evaluation_report
from pipeline.artifacts.privacy_report import PrivacyReport, read_privacy_report
from pipeline.wording.evaluation import fidelity_words
from pipeline.wording.privacy import model_words, release_words, tally

VERDICT_KEY = "gate-verdict"
GRID_KEY = "sample-grid"
METRICS_KEY = "metrics"
MAX_GRID_BYTES = 4 * 2**20
PREVIEW_NAME = "preview.png"


def show_verdict(audit: Path, policy: str, report: Path) -> None:
    """Publish the gate's verdict as a Markdown artifact.

    Args:
        audit: audit directory.
        policy: gate policy of the run.
        report: path of the run's private report.
    """
    create_markdown_artifact(
        key=VERDICT_KEY,
        markdown=verdict_markdown(read_privacy_report(audit), policy, report),
        description="Measured privacy risk of the candidates and what the gate allows",
    )


def verdict_markdown(privacy: PrivacyReport, policy: str, report: Path) -> str:
    """Return the verdict as Markdown, with one row per class."""
    rows = [
        f"| {_cell(name)} | {part.verdict} | {part.asked} | {part.candidates} "
        f"| {part.accepted} | {part.short} |"
        for name, part in privacy.classes.items()
    ]
    said = [*privacy.reasons, tally(privacy), release_words(privacy), model_words(privacy)]
    reasons = [f"- {_cell(line)}" for line in said if line]
    return "\n".join(
        [
            f"# Gate verdict: {privacy.verdict}",
            "",
            f"Policy `{policy}`. {_cell(privacy.policy_note)}",
            "",
            *reasons,
            "",
            "| class | verdict | requested | candidates | accepted | missing |",
            "|---|---|---:|---:|---:|---:|",
            *rows,
            "",
            f"Private report (shows real patients): `{report}`",
        ]
    )


def show_grid(release: Path) -> None:
    """Publish the release's preview, which holds synthetic images only, as an image artifact."""
    path = release / PREVIEW_NAME
    if not path.is_file() or path.stat().st_size > MAX_GRID_BYTES:
        return
    encoded = base64.b64encode(path.read_bytes()).decode("ascii")
    create_image_artifact(
        key=GRID_KEY,
        image_url=f"data:image/png;base64,{encoded}",
        description="Released synthetic images by class",
    )


def show_metrics(evaluation: Path) -> None:
    """Publish the evaluation's figures as a table artifact."""
    create_table_artifact(
        key=METRICS_KEY,
        table=metric_rows(read_evaluation_report(evaluation)),
        description="Fidelity, utility and label agreement of the release",
    )


def metric_rows(report: EvaluationReport) -> list[dict[str, Any]]:
    """Return the figures of an evaluation as rows of measure, scope, value, low, high."""
    found = report.utility
    change = found.difference
    rows = [_row("utility verdict", found.chosen_arm, found.verdict)]
    if change is not None:
        against = f"{found.chosen_arm} against {found.compared_with}"
        rows.append(_row("change in test AUC", against, change.value, change.low, change.high))
    for name, part in (found.by_finding | found.by_group).items():
        rows += _figure("change in test AUC", name, part.change)
    for scope in report.fidelity:
        for distance in scope.distances:
            rows += _figure(distance.heading, scope.scope, distance.value)
            rows += _figure(f"{distance.heading} floor (real to real)", scope.scope, distance.floor)
            if distance.name == "kid":
                rows.append(_row("KID against its floor", scope.scope, fidelity_words(scope)))
    for arm in report.arms:
        name = arm.key or (arm.arm if arm.ratio is None else f"{arm.arm}-{arm.ratio:g}")
        for split, metrics in (("val", arm.val), ("test", arm.test)):
            if "auc" in metrics:
                auc = metrics["auc"]
                rows.append(_row(f"AUC on {split}", name, auc.value, auc.low, auc.high))
    for test in report.external:
        rows.append(_row(f"utility verdict on {test.name}", test.utility.chosen_arm, test.utility.verdict))
        for own in test.arms:
            auc = own.metrics["auc"]
            rows.append(_row(f"AUC on {test.name}", own.key, auc.value, auc.low, auc.high))
            rows += _figure(f"AUC drop to {test.name}", own.key, own.drop)
    for name, share in report.label_agreement.items():
        rows.append(_row("label agreement", name, share.value, share.low, share.high))
    for name, share in report.label_agreement_shuffled.items():
        rows.append(_row("label agreement, labels shuffled", name, share.value, share.low, share.high))
    return rows


def _figure(measure: str, scope: str, value: Figure) -> list[dict[str, Any]]:
    """Return the row of a figure, none if it was not measured."""
    if value is None:
        return []
    if isinstance(value, Estimate):
        return [_row(measure, scope, value.value, value.low, value.high)]
    return [_row(measure, scope, value)]


def _row(
    measure: str, scope: str, value: float | str, low: float | None = None, high: float | None = None
) -> dict[str, Any]:
    return {
        "measure": measure,
        "scope": scope,
        "value": _short(value),
        "low": _short(low),
        "high": _short(high),
    }


def _short(value: float | str | None) -> float | str:
    if value is None:
        return ""
    return value if isinstance(value, str) else float(f"{value:.4g}")


def _cell(text: str) -> str:
    """Escape class names and reasons for a cell of a Markdown table."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
