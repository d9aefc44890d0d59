"""Builds `privacy_report.json` from the measurements: aggregates only, no rows, no records."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.arrays import Bools
from pipeline.artifacts.checkpoint import CheckpointInfo
from pipeline.artifacts.cohort import Cohort
from pipeline.artifacts.privacy_report import (
    COPY_COUNT,
    AttackRisk,
    EarlierRelease,
    PrivacyReport,
    TestResult,
    Threshold,
)
from pipeline.privacy.audited_set import AuditedSet
from pipeline.privacy.gate.filter import RULES
from pipeline.privacy.gate.gate import Measured, excess_copies, isolation_cut, patients_hit
from pipeline.privacy.gate.planted_copies import strengths
from pipeline.privacy.gate.set_tests import AFTER_FILTER, POOLED, STANDS_OUT, SideTest
from pipeline.privacy.gate.verdict import (
    ClassFacts,
    Strength,
    judge_checkpoint,
    judge_class,
    overall,
    policy_note,
)
from pipeline.privacy.membership.run import Membership
from pipeline.privacy.search.agreement import AGREEMENT
from pipeline.privacy.search.references import References
from pipeline.privacy.search.views import VIEWS
from pipeline.privacy.settings import AuditSettings
from pipeline.records import Verdict
from pipeline.rendering.formats import plural
from pipeline.wording.power import clopper_pearson
from pipeline.wording.privacy import Levels, needed_words, signs

RULE_WORDS = {
    "ratio": "log distance to train - log distance to holdout, below the value",
    "isolation": "log distance to the nearest train image (blend: pair of train images) - log distance to "
    "the nearest image of any other patient, below the value",
    "absolute": "log distance to train, below the value",
    "joint": "sum of scores, below the value: how far the nearest train patient stands out in coarse "
    "structure and, after noising and denoising are undone, relative to other patients and to a new image",
}
NOT_COVERED = (
    "copies of less than half an image, and blends of more than two images, beyond what the planted recall "
    "shows",
    "attributes of patients, other than the class, that can be inferred from the set as a whole",
)
OTHER_RELEASES = "other releases made from the same cohort: together they reveal more than each alone"
OTHER_COHORTS = "copies of scans of the {} that the generator's training started from"
OTHERS_THAN_EARLIER = "releases made from the same patients other than the earlier releases in this audit"
MODEL_NOT_COVERED = (
    "membership inference with access to the model (this audit does not allow publishing the checkpoint)"
)
SURPLUS = "not needed"


def final_reasons(audited: AuditedSet, measured: Measured) -> tuple[Bools, list[str]]:
    """Return which candidates are accepted, trimmed to the requested number, and the reasons of the others.

    Of the candidates of a class that pass the gate, those with the lowest indices are kept. The rest are
    surplus, not rejected. If no number was requested, all are kept.

    Returns:
        (n,) whether each candidate is accepted, and the n reasons, empty if accepted.
    """
    accepted = np.array([not reason for reason in measured.reasons])
    reasons = list(measured.reasons)
    names = audited.table["class"].to_numpy()
    index = audited.table["index"].to_numpy()
    for name, asked in audited.asked.items():
        if asked is None:
            continue
        passing = np.flatnonzero(accepted & (names == name))
        for row in passing[np.argsort(index[passing], kind="stable")][asked:]:
            accepted[row], reasons[row] = False, SURPLUS
    return accepted, reasons


def build_report(
    audited: AuditedSet,
    cohort: Cohort,
    references: References,
    *,
    measured: Measured,
    membership: Membership,
    risks: tuple[AttackRisk, ...],
    settings: AuditSettings,
    shortened: tuple[str, ...] = (),
    trained: CheckpointInfo | None = None,
    earlier: tuple[EarlierRelease, ...] = (),
) -> PrivacyReport:
    """Return the report with the verdict, the tests, the thresholds and the recall on planted copies."""
    guarantee = None if trained is None else trained.differential_privacy
    earlier_cohorts = () if trained is None else trained.earlier_cohorts
    counts = references.counts()
    names = audited.table["class"].to_numpy()
    tests = _tests(measured, settings, len(names), counts)
    strength = Strength(
        has_patient_ids=cohort.info.has_patient_ids,
        holdout_patients=counts["holdout_patients"],
        min_holdout_patients=settings.min_holdout_patients,
        power={name: measured.power(name) for name in audited.asked},
        min_power=settings.min_power,
        planted_share=settings.planted_share,
        recall=measured.plain_recall(),
        min_recall=settings.min_planted_recall,
        num_unread=audited.num_unread,
        would_do=needed_words(measured.needed),
    )
    given = np.array(measured.reasons)
    classes = {}
    for name, asked in audited.asked.items():
        own = given[names == name]
        values, numbers = np.unique(own[own != ""], return_counts=True)
        rejected = {str(value): int(number) for value, number in zip(values, numbers, strict=True)}
        facts = ClassFacts(asked, len(own), int((own == "").sum()), rejected)
        classes[name] = judge_class(
            name, facts, tests, strength, membership.release, num_earlier=len(earlier)
        )
    verdict, reasons = overall(classes)
    levels = Levels.of(_settings(settings))
    reasons = (*reasons, *signs(tests, membership.release, levels))
    rate, interval = _share(measured.fresh_rejected, measured.fresh_total)
    checkpoint_verdict: Verdict | None = None
    checkpoint_reasons: tuple[str, ...] = ()
    if membership.checkpoint:
        checkpoint_verdict, checkpoint_reasons = judge_checkpoint(
            membership.checkpoint,
            membership.controls,
            has_patient_ids=cohort.info.has_patient_ids,
            min_patients=settings.membership.min_patients,
            significance=settings.significance,
            guarantee=guarantee,
        )
    return PrivacyReport(
        verdict=verdict,
        reasons=reasons,
        policy_note=policy_note(verdict),
        cohort_digest=cohort.digest,
        candidates_digest=audited.digest,
        checkpoint_digest=audited.checkpoint_digest,
        has_patient_ids=cohort.info.has_patient_ids,
        classes=classes,
        tests=tests,
        needed=measured.needed,
        thresholds=_thresholds(measured),
        reference_counts=counts,
        false_reject_budget=settings.false_reject_budget,
        false_reject_rate=rate,
        false_reject_interval=interval,
        planted={kind: _recall(hits, total) for kind, (hits, total) in measured.planted.items()},
        planted_strengths=strengths(),
        membership=(*membership.release, *membership.checkpoint, *membership.controls),
        membership_note=membership.not_run,
        checkpoint_verdict=checkpoint_verdict,
        checkpoint_reasons=checkpoint_reasons,
        differential_privacy=guarantee,
        earlier_cohorts=earlier_cohorts,
        attack_risks=risks,
        earlier_releases=earlier,
        not_covered=_not_covered(membership, bool(earlier), len(earlier_cohorts)) + audited.notes + shortened,
        settings=_settings(settings),
    )


def _not_covered(membership: Membership, counted_earlier: bool, num_cohorts: int) -> tuple[str, ...]:
    always: tuple[str, ...] = (*NOT_COVERED, OTHERS_THAN_EARLIER if counted_earlier else OTHER_RELEASES)
    if num_cohorts:
        always = (OTHER_COHORTS.format(plural(num_cohorts, "other cohort")), *always)
    if membership.not_run:
        return (f"membership inference: {membership.not_run}", *always)
    return always if membership.checkpoint else (MODEL_NOT_COVERED, *always)


def _tests(
    measured: Measured, settings: AuditSettings, count: int, counts: dict[str, int]
) -> tuple[TestResult, ...]:
    results = [
        _sign(test, adjusted, measured, settings)
        for test, adjusted in zip(measured.tests, measured.adjusted, strict=True)
    ]
    for view in VIEWS:
        cut = isolation_cut(measured.calibration, view)
        share = measured.plan.holdout_share
        excess, (low, high), past = excess_copies(measured.found.views[view], cut, share)
        note = (
            f"estimated share of copies among all candidates, from the {past} candidates that stand out at "
            f"the gate's threshold and their decoys (nearest to holdout); 95 % interval {low:.4f} to "
            f"{high:.4f}"
        )
        if not past:
            # There are no sides to count, but that none of `count` candidates stands out bounds the share.
            note = (
                "no candidate stands out at the gate's threshold; 95 % interval of the share of candidates "
                f"that stand out: 0.0000 to {clopper_pearson(0, count)[1]:.4f}"
            )
        results.append(
            TestResult(
                name="excess_copies",
                view=view,
                scope=POOLED,
                num_samples=count,
                statistic=round(excess, 6),
                null_value=0.0,
                p_value=None,
                adjusted_p_value=None,
                power=None,
                passed=None,
                note=note,
            )
        )
        results.append(_hit(measured, view, cut, counts))
        if "ratio" in RULES[view]:
            results.append(_decoy(measured, view, count))
    return tuple(results)


def _hit(measured: Measured, view: str, cut: float, counts: dict[str, int]) -> TestResult:
    """Compare the share of train patients nearest to a standing-out candidate with that of the holdout."""
    train, holdout = patients_hit(measured.found.views[view], cut)
    trained, held = counts["train_patients"], counts["holdout_patients"]
    low, high = clopper_pearson(train, trained)
    return TestResult(
        name="patients_hit",
        view=view,
        scope=POOLED,
        num_samples=trained,
        statistic=round(train / trained, 6),
        null_value=round(holdout / held, 6),
        p_value=None,
        adjusted_p_value=None,
        power=None,
        passed=None,
        note=(
            f"{train} of {trained} train patients (95 % interval {low:.4f} to {high:.4f}) and {holdout} of "
            f"{held} holdout patients are nearest to a candidate that stands out at the gate's threshold"
        ),
    )


def _sign(test: SideTest, adjusted: float, measured: Measured, settings: AuditSettings) -> TestResult:
    hits = measured.detected.get((test.name, test.view, test.scope))
    note = f"the {test.depth} most copy-like candidates, one per nearest patient"
    if test.name == COPY_COUNT:
        note = f"{test.depth} candidates stand out {STANDS_OUT:g} times as far as the farthest real images"
        if test.view == AGREEMENT:
            note += " in two views that name the same patient"
    if test.name == AFTER_FILTER:
        note += "; candidates past the threshold are excluded on both sides"
    return TestResult(
        name=test.name,
        view=test.view,
        scope=test.scope,
        num_samples=test.depth,
        statistic=round(test.train / test.depth, 6) if test.depth else None,
        null_value=round(1 - measured.plan.holdout_share, 6),
        p_value=test.p_value,
        adjusted_p_value=adjusted,
        power=None if hits is None else float(hits.mean()),
        power_against="" if hits is None else f"{settings.planted_share:.1%} planted copies",
        passed=adjusted >= settings.significance,
        note=note,
    )


def _decoy(measured: Measured, view: str, count: int) -> TestResult:
    """Compare the ratio rule's rejections with the mirrored right tail of matched folds."""
    rule = next(r for r in measured.calibration.rules if (r.view, r.name) == (view, "ratio"))
    cut = rule.threshold(measured.calibration.score)
    found = measured.found.views[view]
    matched = np.log(found.folds) - np.log(found.holdout)[:, None]
    left = float((np.log(found.train) - np.log(found.holdout) < cut).mean())
    right = float(min(1.0, (matched > -cut).mean() * matched.shape[1]))
    return TestResult(
        name="decoy_tail",
        view=view,
        scope=POOLED,
        num_samples=count,
        statistic=round(left, 6),
        null_value=round(right, 6),
        p_value=None,
        adjusted_p_value=None,
        power=None,
        passed=None,
        note=(
            "share of candidates past the ratio threshold, and an upper bound of that share for a generator "
            "that copies nothing: right tail of the ratio over train folds of the holdout's size, times folds"
        ),
    )


def _thresholds(measured: Measured) -> tuple[Threshold, ...]:
    out = []
    for rule in measured.calibration.rules:
        rejected = measured.fresh_by_rule[rule.view, rule.name]
        rate, interval = _share(rejected, measured.fresh_total)
        out.append(
            Threshold(
                view=rule.view,
                rule=f"{rule.name}: {RULE_WORDS[rule.name]}",
                value=round(rule.threshold(measured.calibration.score), 6),
                false_reject_rate=rate,
                interval=interval,
                num_fresh=measured.fresh_total,
            )
        )
    return tuple(out)


def _share(hits: int, total: int) -> tuple[float | None, tuple[float, float] | None]:
    if not total:
        return None, None
    return hits / total, clopper_pearson(hits, total)


def _recall(hits: int, total: int) -> dict[str, float]:
    low, high = clopper_pearson(hits, total)
    return {"recall": hits / total, "low": low, "high": high, "n": float(total)}


def _settings(settings: AuditSettings) -> dict[str, Any]:
    return settings.content_settings().model_dump(mode="json")
