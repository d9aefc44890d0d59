"""Renders the report from its template; all values that come from data are escaped."""

from __future__ import annotations

from typing import Any

from pipeline.artifacts.evaluation_report import EvaluationReport
from pipeline.rendering.formats import plural
from pipeline.rendering.templating import render
from pipeline.report import evaluation_tables, privacy_card, sections, verdicts
from pipeline.report.figures import read_progress, recall_chart, training_chart, utility_chart
from pipeline.report.folder import NOT_MADE, RunFolder
from pipeline.report.grids import class_pictures, compared_with, shown_words, snapshots
from pipeline.wording.evaluation import delong_words
from pipeline.wording.privacy import false_rejects, tally
from pipeline.wording.privacy_advice import what_to_change

TEMPLATE = "report.html.j2"

CONTENTS = (
    ("verdicts", "Verdicts"),
    ("asked", "What was requested"),
    ("pictures", "Real and synthetic"),
    ("neighbours", "Nearest real scans"),
    ("privacy", "Privacy card"),
    ("utility", "Utility"),
    ("labels", "Label agreement"),
    ("fidelity", "Fidelity"),
    ("cohort", "The cohort"),
    ("training", "Training"),
    ("cost", "Cost"),
    ("provenance", "Provenance"),
)
"""Sections of the page: anchor and heading, in order. Every report has all of them."""


def render_run(run: RunFolder) -> str:
    """Return the page of a run as HTML."""
    return render(TEMPLATE, **_context(run))


def _context(run: RunFolder) -> dict[str, Any]:
    info = run.cohort.info if run.cohort is not None else None
    return {
        "title": info.name if info is not None else run.path.absolute().name,
        "contents": CONTENTS,
        "run": run,
        "info": info,
        "absent": lambda stage: f"The {stage} of this run: {run.absent.get(stage, NOT_MADE)}.",
        "plural": plural,
        "headlines": verdicts.headlines(run),
        "inconclusive": verdicts.inconclusive(run),
        "refused": verdicts.refused(run),
        "what_to_change": what_to_change(run.audit, verdicts.policy_of(run)) if run.audit else [],
        "asked": sections.asked(run),
        "pictures": class_pictures(run),
        "shown_words": shown_words,
        "compared_with": compared_with(run.audit_table),
        "split_rows": sections.split_rows(run),
        "refusals": sections.refusals(run),
        "flow": sections.flow(run),
        **_privacy(run),
        **evaluation_context(run.evaluation),
        **_training(run),
    }


def _privacy(run: RunFolder) -> dict[str, Any]:
    if run.audit is None:
        return {"audit": None}
    return {
        "audit": run.audit,
        "explanations": privacy_card.explanations(run.audit),
        "gate_rows": privacy_card.gate_rows(run.audit),
        "estimate_rows": privacy_card.estimate_rows(run.audit),
        "planted_rows": privacy_card.planted_rows(run.audit),
        "recall_chart": recall_chart(run.audit),
        "membership_rows": privacy_card.membership_rows(run.audit),
        "risks": privacy_card.risks(run.audit),
        "view_words": privacy_card.view_words,
        "rejection_words": privacy_card.rejection_words,
        "false_reject_words": false_rejects(run.audit),
        "tally": tally(run.audit),
    }


def evaluation_context(found: EvaluationReport | None) -> dict[str, Any]:
    """Return what the template of an evaluation shows."""
    if found is None:
        return {"evaluation": None}
    return {
        "evaluation": found,
        "utility_chart": utility_chart(
            found.arms, chosen=found.utility.chosen_arm, compared=found.utility.compared_with
        ),
        "metric_headings": evaluation_tables.metric_headings(found),
        "arm_rows": evaluation_tables.arm_rows(found),
        "fidelity_rows": evaluation_tables.fidelity_rows(found),
        "parts": evaluation_tables.part_tables(found, found.utility),
        "agreement_rows": evaluation_tables.agreement_rows(found),
        "seeds_words": evaluation_tables.seeds_words(found),
        "delong": delong_words(found.utility.delong),
        "external": [evaluation_tables.external_section(found, test) for test in found.external],
    }


def _training(run: RunFolder) -> dict[str, Any]:
    folder = run.path / "checkpoint"
    progress = read_progress(folder / "progress.csv") if run.checkpoint is not None else {}
    return {
        "cost_rows": sections.cost_rows(run, progress),
        "training_facts": sections.training_facts(run, progress),
        "training_chart": training_chart(progress),
        "snapshots": snapshots(folder) if run.checkpoint is not None else [],
    }
