"""Remedies for what an audit found, as sentences for the run's report and the audit's own page."""

from __future__ import annotations

from pipeline.artifacts.privacy_report import COPY_COUNT, PrivacyReport
from pipeline.records import Policy, Verdict
from pipeline.rendering.formats import plain_percent
from pipeline.wording.privacy import (
    Levels,
    Outcome,
    attack_outcome,
    needed_words,
    on_release,
    visible_auc,
)


def what_to_change(audit: PrivacyReport, policy: Policy | None = None) -> list[str]:
    """Return remedies for verdicts on images and checkpoint that are not PASS, most important first.

    Args:
        audit: the report; settings are named only if this pipeline generated the images.
        policy: which verdicts the run releases, if known.
    """
    ours = bool(audit.checkpoint_digest)
    # If the generator repeats its scans, sampling more images does not help against too few that pass.
    steps = _copies(audit, ours) or _short(audit, ours)
    if not audit.has_patient_ids and audit.verdict is not Verdict.PASS:
        steps.append(
            "This cohort has no patient ids, which caps the verdict at INCONCLUSIVE. Name a patient column, "
            "tag, pattern or table in the manifest."
        )
    if audit.verdict is Verdict.INCONCLUSIVE:
        steps.extend(_stronger_tests(audit, ours))
        steps.extend(_more_audit_patients(audit))
        if ours and policy is not Policy.RESEARCH:
            steps.append(
                "Under the research policy (release.policy=research) an INCONCLUSIVE set may be released; "
                "its card then says so."
            )
    if audit.checkpoint_verdict is Verdict.FAIL:
        steps.append(
            "The checkpoint itself reveals who was in the training data: keep it where the cohort is stored. "
            "A checkpoint that may be shared needs fewer steps (train.num_steps), augmentation "
            "(train.augment) or a guarantee (train.dp.epsilon)."
        )
    return steps


def _copies(audit: PrivacyReport, ours: bool) -> list[str]:
    """Return one remedy for all findings that show that the generator has memorised its training scans."""
    found = []
    failed = [test for test in audit.tests if test.passed is False]
    near = {test.scope for test in failed if test.name != COPY_COUNT}
    if near:
        of = [f"class {name}" for name in audit.classes if name in near] or ["the whole set"]
        found.append(
            f"the most copy-like images of {', '.join(of)} lie nearer to training scans than chance explains"
        )
    elif failed:
        found.append("more images of the set stand out as copies than real scans account for")
    if any(attack.passed is False for attack in audit.membership if attack.attack.startswith("release_")):
        found.append("the accepted images reveal who was in the training data")
    if not found:
        return []
    said = ", and ".join(found)
    if ours:
        change = (
            "Train on more patients, for fewer steps (train.num_steps) or with augmentation (train.augment), "
            "or let the training stop by itself (train.stop_when_memorising); then sample and audit again."
        )
    else:
        change = (
            "Train the generator on more patients, for fewer steps or with augmentation; then sample and "
            "audit again."
        )
    return [f"{said[0].upper()}{said[1:]}. {change}"]


def _short(audit: PrivacyReport, ours: bool) -> list[str]:
    short = {name: found for name, found in audit.classes.items() if found.short}
    if not short:
        return []
    if not ours:
        return [f"No image of class {', '.join(short)} passes; look at the reasons for rejection."]
    missing = ", ".join(
        f"{name} ({found.short:,} of {found.asked:,} missing)" for name, found in short.items()
    )
    return [
        f"Too few images of class {missing} pass. Look at the reasons for rejection first; then draw more "
        "(sample.overdraw) or ask for fewer (sample.per_class)."
    ]


def _stronger_tests(audit: PrivacyReport, ours: bool) -> list[str]:
    needed = audit.settings.get("min_power", 0.8)
    powers = [found.power for found in audit.classes.values() if found.power is not None]
    if powers and min(powers) < needed:
        more = "more candidates (sample.per_class)" if ours else "more of the generator's images"
        against = next((test.power_against for test in audit.tests if test.power_against), "planted copies")
        enough = needed_words(audit.needed)
        return [
            f"All tests together would detect {against} with a probability of "
            f"{plain_percent(min(powers), 0)} in the class where they are weakest; PASS needs "
            f"{plain_percent(needed, 0)}. A larger holdout (ingest.holdout_share), more patients, or {more} "
            f"make them stronger{f': {enough}' if enough else ''}."
        ]
    if audit.has_patient_ids:
        return ["More patients in the holdout (ingest.holdout_share) make the tests stronger."]
    return []


def _more_audit_patients(audit: PrivacyReport) -> list[str]:
    """Return a remedy if the membership attacks on the release could not tell."""
    levels = Levels.of(audit.settings)
    attacks = on_release(audit.membership)
    if not attacks or not any(attack_outcome(attack, levels) is Outcome.BLIND for attack in attacks):
        return []
    return [
        "Too few patients were assigned to train or the holdout by a coin flip. "
        f"{visible_auc(attacks, levels)} More scans, or a larger share of them (ingest.audit_share), make "
        "this attack stronger."
    ]
