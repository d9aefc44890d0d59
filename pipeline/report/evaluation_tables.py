"""Evaluation in tables and words: fidelity against its floor, utility by arm, label agreement."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.artifacts.evaluation_report import (
    ArmResult,
    Distance,
    Estimate,
    EvaluationReport,
    ExternalTest,
    Fidelity,
    UtilityVerdict,
)
from pipeline.evaluate.settings import is_own
from pipeline.rendering.formats import plural
from pipeline.report.figures import arm_key, arm_words, ordered_arms
from pipeline.wording.evaluation import delong_words, detail_words, fidelity_words

METRICS = (
    ("auc", "AUC"),
    ("balanced_accuracy", "Balanced accuracy"),
    ("sensitivity_at_specificity", "Sensitivity at fixed specificity"),
    ("ece", "Calibration error (ECE)"),
    ("brier", "Brier score"),
)
"""Metric -> heading, in the order of the table; all but the last two are better when higher."""


@dataclass(frozen=True)
class FidelityRow:
    """Distances of one scope, with their interpretation relative to the real-against-real floor."""

    scope: str
    distances: tuple[Distance, ...]
    sizes: str
    words: str


@dataclass(frozen=True)
class ArmRow:
    """One utility arm: its training data and its metrics."""

    name: str
    trained_on: str
    val_auc: Estimate | None
    test: tuple[Estimate | None, ...]
    role: str


@dataclass(frozen=True)
class ExternalRow:
    """AUC of one arm on the internal test split and on the cohort of another site, and the drop between."""

    name: str
    role: str
    internal: Estimate | None
    external: Estimate
    drop: Estimate | None


@dataclass(frozen=True)
class ExternalSection:
    """One external test: what it was made on, one row per arm, the parts, and DeLong's test in words."""

    test: ExternalTest
    words: str
    rows: list[ExternalRow]
    parts: dict[str, list[PartRow]]
    delong: str


@dataclass(frozen=True)
class AgreementRow:
    """Label agreement of one class, its shuffled control, and the agreement on real val scans."""

    name: str
    agreement: Estimate
    shuffled: Estimate | None
    real: Estimate | None


def fidelity_rows(report: EvaluationReport) -> list[FidelityRow]:
    """Return the fidelity table, the whole set first."""
    ordered = sorted(report.fidelity, key=lambda part: part.scope != "all")
    return [_fidelity_row(part) for part in ordered]


def _fidelity_row(part: Fidelity) -> FidelityRow:
    return FidelityRow(
        scope="all classes" if part.scope == "all" else part.scope,
        distances=part.distances,
        sizes=f"{part.num_synthetic:,} / {part.num_real:,}",
        words="; ".join(filter(None, (fidelity_words(part), detail_words(part)))),
    )


def metric_headings(report: EvaluationReport) -> list[str]:
    """Return the headings of the test metrics that at least one arm has."""
    return [heading for key, heading in METRICS if _has(report, key)]


def arm_rows(report: EvaluationReport) -> list[ArmRow]:
    """Return the utility table, real arms first; `role` marks the two arms that the verdict compares."""
    keys = [key for key, _ in METRICS if _has(report, key)]
    return [
        ArmRow(
            name=arm_words(arm),
            trained_on=_trained_on(arm),
            val_auc=arm.val.get("auc"),
            test=tuple(arm.test.get(key) for key in keys),
            role=_role(arm, report),
        )
        for arm in ordered_arms(report.arms)
    ]


def _has(report: EvaluationReport, key: str) -> bool:
    return any(key in arm.test for arm in report.arms)


def _trained_on(arm: ArmResult) -> str:
    parts = []
    if arm.num_real:
        parts.append(f"{arm.num_real:,} real")
    if arm.num_synthetic:
        parts.append(f"{arm.num_synthetic:,} synthetic")
    return " + ".join(parts)


def _role(arm: ArmResult, report: EvaluationReport) -> str:
    if not arm.test:
        return "not chosen on validation"
    if arm_key(arm) == report.utility.chosen_arm:
        return "chosen synthetic arm"
    return "best without synthetic" if arm_key(arm) == report.utility.compared_with else ""


def external_section(report: EvaluationReport, test: ExternalTest) -> ExternalSection:
    """Return what the page shows of an external test."""
    return ExternalSection(
        test,
        external_words(test),
        external_rows(report, test),
        part_tables(report, test.utility),
        delong_words(test.utility.delong),
    )


def external_rows(report: EvaluationReport, test: ExternalTest) -> list[ExternalRow]:
    """Return the arms on the cohort of another site; `role` marks the two that are compared there."""
    inner = {arm.key: arm for arm in report.arms}
    roles = {
        test.utility.chosen_arm: "chosen synthetic arm",
        test.utility.compared_with: "best without synthetic there",
    }
    return [
        ExternalRow(
            name=f"{arm.words[:1].upper()}{arm.words[1:]}",
            role=roles.get(arm.key, ""),
            internal=inner[arm.key].test.get("auc"),
            external=arm.metrics["auc"],
            drop=arm.drop,
        )
        for arm in test.arms
    ]


def external_words(test: ExternalTest) -> str:
    """Return what an external test was made on, and how many times."""
    patients = "" if test.num_patients is None else f" of {plural(test.num_patients, 'patient')}"
    words = (
        f"The same classifiers on the cohort of another site: {plural(test.num_scans, 'scan')}{patients}. "
        "All its splits count, because no classifier was trained on any of its scans."
    )
    if test.reads > 1:
        words += (
            f" This cohort was read {test.reads} times by the evaluations of this folder. Settings that were "
            "chosen after an earlier result depend on it."
        )
    return words


def agreement_rows(report: EvaluationReport) -> list[AgreementRow]:
    """Return the label agreement of each class beside its shuffled control."""
    return [
        AgreementRow(
            name,
            value,
            report.label_agreement_shuffled.get(name),
            report.label_agreement_real.get(name),
        )
        for name, value in report.label_agreement.items()
    ]


@dataclass(frozen=True)
class PartRow:
    """Test AUC of one finding or subgroup: of the real-only arm that is best there, and of the chosen arm."""

    name: str
    rival: str
    real: Estimate
    synthetic: Estimate
    change: Estimate


def part_tables(report: EvaluationReport, utility: UtilityVerdict) -> dict[str, list[PartRow]]:
    """Return the utility by finding and by subgroup, as far as they were measured.

    Args:
        report: the evaluation, which names the arms.
        utility: the verdict on its test split, or on the cohort of another site.

    Returns:
        `finding` or `subgroup` -> rows. Those of subgroups begin with the smallest change.
    """
    words = {arm_key(arm): arm_words(arm) for arm in report.arms}
    found = {
        kind: [
            PartRow(name, words[part.compared_with], part.real, part.synthetic, part.change)
            for name, part in changes.items()
        ]
        for kind, changes in (("finding", utility.by_finding), ("subgroup", utility.by_group))
        if changes
    }
    if "subgroup" in found:
        found["subgroup"].sort(key=lambda row: row.change.value)
    return found


def seeds_words(report: EvaluationReport) -> str:
    """Return how many times each arm was trained and how many times test was read."""
    seeds = max((len(arm.seeds) for arm in report.arms), default=0)
    if not seeds:
        return "No classifier was trained."
    effort = "for the same number of steps"
    if is_own(str(report.settings.get("classifier", ""))):
        effort = "by a classifier of the user's own"
    elif len(set(report.settings.get("budgets", ()))) > 1:
        effort = "at each budget of steps"
    return (
        f"Each arm was trained with {plural(seeds, 'classifier seed')} {effort}; every "
        f"choice was made on validation. {reads_words(report)}"
    )


def reads_words(report: EvaluationReport) -> str:
    """Return how many times the test split was read, and what follows from more than one read."""
    reads, others = report.test_reads, report.test_reads_of_others
    if reads < 2:
        return f"The test split was read {plural(reads, 'time')}."
    words = (
        f"The test split was read {reads} times by the evaluations of this folder, including those that were "
        "replaced. Settings that were chosen after an earlier result depend on the test scans, and figures "
        "on test may then be too optimistic."
    )
    return words + (f" {others} of these reads were of another cohort." if others else "")
