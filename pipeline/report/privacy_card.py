"""The privacy card: the gate's tests in words, and the three risks that regulators name."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.artifacts.privacy_report import (
    AttackRisk,
    ClassVerdict,
    MembershipResult,
    PrivacyReport,
    TestResult,
)
from pipeline.records import Verdict
from pipeline.rendering.formats import number, percent, percent_interval, plural
from pipeline.wording.privacy import (
    RELEASE,
    Levels,
    Outcome,
    attack_outcomes,
    hardest_copy,
    model_words,
    outcome,
    release_words,
    tally,
)

VIEW_WORDS = {
    "correlation": "aligned pixels",
    "embedding": "copy-detection features",
    "hash": "file and picture hashes",
    "duplicate": "duplicates among candidates",
    "halves": "halves of the image",
    "components": "coarse structure (principal components)",
    "blend": "pairs of scans, as the sources of a blend",
    "redrawn": "images that a model noised and denoised",
    "agreement": "two views that name the same patient",
}
TEST_EXPLAINED = {
    "sign_test": "Sign test: are the most copy-like candidates nearer to training scans than to scans of "
    "patients who were never trained on? The observed value is the share that is nearer to training scans; "
    "the expected value is the share for a model that copies nothing.",
    "copy_count": "Copy count: do more candidates stand out than real scans do among each other? The "
    "observed value is the share of them that is nearer to training scans.",
}
PATIENTS_HIT = "patients_hit"
"""The estimate that counts patients; all others count images."""
TONES = {
    Outcome.FAILED: "bad",
    Outcome.SIGN: "warn",
    Outcome.CLEAR: "good",
    Outcome.BLIND: "",
    Outcome.NOT_RUN: "warn",
    Outcome.LOUD: "bad",
}
"""Outcome -> colour class."""


@dataclass(frozen=True)
class GateRow:
    """One test of the gate in words."""

    name: str
    view: str
    scope: str
    samples: str
    found: str
    expected: str
    p_value: float | None
    power: str
    power_against: str
    outcome: str
    tone: str
    note: str


@dataclass(frozen=True)
class PlantedRow:
    """Recall of the gate on one kind of planted copy, all shares in [0, 1]."""

    kind: str
    recall: float
    interval: tuple[float, float] | None
    n: int


ATTACK_WORDS = {
    "loss": "denoising loss",
    "sima": "noise predicted in the clean scan (SimA)",
    "pia": "predicted noise, predicted again once added (PIA)",
    "combined": "all of these, combined",
    "release_correlation": "closest released image, aligned pixels",
    "release_components": "closest released image, coarse structure",
    "release_combined": "all of these, combined",
    "control_untrained": "control: an untrained model",
    "control_members": "control: members compared with members",
}


@dataclass(frozen=True)
class MembershipRow:
    """One attack on the audit patients in words."""

    name: str
    given: str
    patients: str
    auc: str
    noticeable: str
    hits: str
    p_value: float
    epsilon: str
    outcome: str
    tone: str


@dataclass(frozen=True)
class Risk:
    """One of the three risks by which European regulators judge re-identification, and what was measured."""

    name: str
    question: str
    measured: str


def gate_rows(report: PrivacyReport) -> list[GateRow]:
    """Return the tests that can pass or fail, failed ones first, otherwise in the order of the report."""
    order = {False: 0, None: 1, True: 2}
    tests = [test for test in report.tests if not _is_estimate(test)]
    levels = Levels.of(report.settings)
    return [_gate_row(test, levels) for test in sorted(tests, key=lambda test: order[test.passed])]


def estimate_rows(report: PrivacyReport) -> list[GateRow]:
    """Return the estimates, which do not affect the verdict."""
    levels = Levels.of(report.settings)
    return [_gate_row(test, levels) for test in report.tests if _is_estimate(test)]


def _is_estimate(test: TestResult) -> bool:
    return test.passed is None and test.statistic is not None


def _gate_row(test: TestResult, levels: Levels) -> GateRow:
    said = outcome(test, levels)
    return GateRow(
        name=test.name.replace("_", " "),
        view=view_words(test.view),
        scope="all classes" if test.scope == "pooled" else test.scope,
        samples=plural(test.num_samples, "patient" if test.name == PATIENTS_HIT else "image"),
        found=number(test.statistic, 3),
        expected=number(test.null_value, 3),
        p_value=test.p_value if test.adjusted_p_value is None else test.adjusted_p_value,
        power=percent(test.power, 0),
        power_against=test.power_against,
        outcome=said.value,
        tone=TONES[said],
        note=test.note,
    )


def explanations(report: PrivacyReport) -> list[str]:
    """Return the question of each kind of test in the report."""
    names = dict.fromkeys(test.name for test in report.tests)
    return [TEST_EXPLAINED[name] for name in names if name in TEST_EXPLAINED]


def view_words(view: str) -> str:
    """Return the display name of a view (a way of comparing two images)."""
    return VIEW_WORDS.get(view, view.replace("_", " "))


def planted_rows(report: PrivacyReport) -> list[PlantedRow]:
    """Return the recall on planted copies, highest first."""
    rows = []
    for kind, found in report.planted.items():
        interval = (found["low"], found["high"]) if {"low", "high"} <= found.keys() else None
        recall = min(max(found.get("recall", 0.0), 0.0), 1.0)
        rows.append(PlantedRow(kind.replace("_", " "), recall, interval, int(found.get("n", 0))))
    return sorted(rows, key=lambda row: (-row.recall, row.kind))


def rejection_words(found: ClassVerdict) -> str:
    """Return the reasons for rejection of a class in words, most frequent first."""
    kept = [(reason, number_of) for reason, number_of in found.rejected.items() if number_of]
    kept.sort(key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{number_of:,} {reason}" for reason, number_of in kept) or "none"


def risks(report: PrivacyReport) -> list[Risk]:
    """Return singling out, linkability and inference, each with what this audit measured.

    The three are those of Article 29 Working Party Opinion 05/2014 (WP 216), section 2.2.
    """
    compared = "Each candidate was compared with every training scan and with scans never trained on."
    copies = " ".join(part for part in (compared, tally(report), hardest_copy(report)) if part)
    return [
        Risk("Singling out", "Does an image show one particular patient?", copies),
        Risk(
            "Linkability",
            "Can an image be tied to other records of the same patient?",
            _linkability(report),
        ),
        Risk(
            "Inference",
            "Can an attacker tell who was in the training data, or something about them?",
            _inference(report),
        ),
    ]


def _linkability(report: PrivacyReport) -> str:
    """Return how often two halves of one scan can be linked to each other, compared with the control."""
    found = next((risk for risk in report.attack_risks if risk.name == "linkability"), None)
    if found is None:
        return "Only as far as an image resembles a training scan. No linkage attack was run."
    return (
        f"Two halves of one scan were linked to each other through the release for {percent(found.success)} "
        f"of training scans and {percent(found.control_success)} of scans never trained on: a "
        f"{_risk_words(found)}. No patient re-identification was attempted."
    )


def _risk_words(found: AttackRisk) -> str:
    low, high = (number(bound, 3) for bound in found.interval)
    above = "above" if found.interval[0] > 0 else "not distinguished from"
    return (
        f"risk of {number(found.risk, 3)} (95\u00a0% interval {low} to {high}: {above} 0, the value for "
        "scans never trained on)"
    )


def membership_rows(report: PrivacyReport) -> list[MembershipRow]:
    """Return the attacks on the audit patients and their controls, in the order of the report."""
    said = attack_outcomes(report)
    return [_membership_row(attack, told) for attack, told in zip(report.membership, said, strict=True)]


def _membership_row(attack: MembershipResult, said: Outcome) -> MembershipRow:
    return MembershipRow(
        name=ATTACK_WORDS.get(attack.attack, attack.attack.replace("_", " ")),
        given="the release" if attack.attack.startswith(RELEASE) else "the model",
        patients=f"{attack.members:,}, {attack.non_members:,}",
        auc=number(attack.auc, 3),
        noticeable=number(attack.noticeable_auc, 2),
        hits=f"{percent(attack.hit_rate)} ({percent_interval(attack.hit_rate_interval)})",
        p_value=attack.p_value if attack.adjusted_p_value is None else attack.adjusted_p_value,
        epsilon=number(attack.epsilon_lower_bound, 2),
        outcome=said.value,
        tone=TONES[said],
    )


def _inference(report: PrivacyReport) -> str:
    """Return the results of membership and attribute inference."""
    keep = "Do not share the checkpoint on the basis of this audit."
    if not report.membership:
        why = f" ({report.membership_note})" if report.membership_note else ""
        return f"Not measured here: no membership inference was run{why}. {keep}"
    parts = [release_words(report), model_words(report) or "The model itself was not attacked."]
    if report.checkpoint_verdict is not Verdict.PASS:
        parts.append(keep)
    guessed = next((risk for risk in report.attack_risks if risk.name == "attribute_inference"), None)
    if guessed is not None:
        parts.append(f"The class of a training scan is guessed from the release: a {_risk_words(guessed)}.")
    return " ".join(part for part in parts if part)
