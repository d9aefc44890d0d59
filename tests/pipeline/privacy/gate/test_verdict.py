"""Three values, by class, the worst decides."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.artifacts.guarantee import DifferentialPrivacy
from pipeline.artifacts.privacy_report import COPY_COUNT, MembershipResult, TestResult
from pipeline.privacy.gate.verdict import ClassFacts, Strength, judge_checkpoint, judge_class, overall
from pipeline.records import Verdict

STRONG = Strength(
    has_patient_ids=True,
    holdout_patients=100,
    min_holdout_patients=50,
    power={"a": 0.9, "b": 0.9},
    min_power=0.8,
    planted_share=0.02,
    recall=1.0,
    min_recall=0.9,
)
ENOUGH = ClassFacts(asked=100, candidates=125, passing=120, rejected={"duplicate": 5})


def sign(scope: str, passed: bool) -> TestResult:
    return TestResult(
        name="sign_test",
        view="correlation",
        scope=scope,
        num_samples=25,
        statistic=0.9,
        null_value=0.85,
        p_value=0.001,
        adjusted_p_value=0.002,
        power=0.9,
        passed=passed,
    )


def test_pass_needs_silence_and_strength() -> None:
    part = judge_class("a", ENOUGH, (sign("pooled", True),), STRONG)
    assert part.verdict is Verdict.PASS and part.accepted == 100 and part.short == 0 and not part.reasons


@pytest.mark.parametrize(
    ("weak", "word"),
    [
        ({"has_patient_ids": False}, "patient ids"),
        ({"holdout_patients": 49}, "49 holdout patients"),
        ({"power": {"a": 0.79, "b": 1.0}}, "0.79"),
        ({"recall": 0.5}, "50%"),
    ],
)
def test_each_weakness_makes_it_inconclusive_and_is_named(weak: dict[str, object], word: str) -> None:
    part = judge_class("a", ENOUGH, (), replace(STRONG, **weak))  # type: ignore[arg-type]
    assert part.verdict is Verdict.INCONCLUSIVE
    assert word in part.reasons[0]


@pytest.mark.parametrize(("scope", "fails"), [("pooled", True), ("a", True), ("b", False)])
def test_a_failing_test_fails_its_class_and_a_pooled_one_all(scope: str, fails: bool) -> None:
    part = judge_class("a", ENOUGH, (sign(scope, False),), STRONG)
    assert (part.verdict is Verdict.FAIL) == fails


def test_what_several_tests_show_is_said_once_with_all_that_show_it() -> None:
    found = sign("pooled", False)
    more = found.model_copy(update={"view": "halves", "adjusted_p_value": 0.001})
    counted = found.model_copy(update={"name": COPY_COUNT, "view": "agreement"})
    tests = (found, more, found.model_copy(update={"name": "sign_test_after_filter"}), counted)
    told = (attack("release_components", passed=False), attack("release_combined", passed=False))
    near, count, by = judge_class("a", ENOUGH, tests, STRONG, told).reasons
    assert (
        "(sign_test by correlation, halves; sign_test_after_filter by correlation; smallest adjusted "
        "p = 0.001)" in near
    )
    assert "stand out as copies" in count and "(copy_count by agreement; adjusted p = 0.002)" in count
    assert "release_components (AUC 0.55, 60 members and 50 non-members, p = 0.5), release_com" in by


def test_failing_outranks_weakness_and_the_worst_class_decides() -> None:
    weak = replace(STRONG, has_patient_ids=False)
    short = judge_class("a", ClassFacts(100, 125, 99, {"correlation_ratio": 26}), (), weak)
    assert short.verdict is Verdict.FAIL and short.short == 1 and "99 of 125" in short.reasons[0]
    classes = {"b": judge_class("b", ENOUGH, (), STRONG), "a": short, "c": judge_class("b", ENOUGH, (), weak)}
    verdict, reasons = overall(classes)
    assert verdict is Verdict.FAIL
    assert reasons[0].startswith("a:") and reasons[1].startswith("c:")


def test_a_pass_gives_its_reason_too() -> None:
    verdict, reasons = overall({"a": judge_class("a", ENOUGH, (), STRONG)})
    assert verdict is Verdict.PASS and len(reasons) == 1


def attack(name: str, *, passed: bool | None, p_value: float = 0.5, epsilon: float = 0.0) -> MembershipResult:
    return MembershipResult(
        attack=name,
        members=60,
        non_members=50,
        auc=0.55,
        noticeable_auc=0.62,
        hit_rate=0.02,
        hit_rate_interval=(0.0, 0.05),
        p_value=p_value,
        adjusted_p_value=None if passed is None else p_value,
        passed=passed,
        epsilon_lower_bound=epsilon,
        guesses=20,
        correct=12,
    )


def checkpoint(
    found: MembershipResult,
    *,
    control_p: float = 0.5,
    has_patient_ids: bool = True,
    min_patients: int = 40,
    epsilon: float | None = None,
) -> tuple[Verdict, tuple[str, ...]]:
    guarantee = None
    if epsilon is not None:
        guarantee = DifferentialPrivacy(
            epsilon=epsilon,
            delta=1e-5,
            prv_epsilon=epsilon,
            unit="patient",
            num_units=100,
            noise_multiplier=1.0,
            max_grad_norm=1.0,
            sample_rate=0.1,
            num_steps=10,
        )
    controls = tuple(
        attack(name, passed=None, p_value=control_p) for name in ("control_untrained", "control_members")
    )
    return judge_checkpoint(
        (found,),
        controls,
        has_patient_ids=has_patient_ids,
        min_patients=min_patients,
        significance=0.01,
        guarantee=guarantee,
    )


def test_a_checkpoint_passes_only_if_an_attack_by_enough_known_patients_finds_nothing() -> None:
    quiet, loud = attack("combined", passed=True), attack("combined", passed=False, p_value=1e-4)
    assert checkpoint(quiet)[0] is Verdict.PASS
    verdict, reasons = checkpoint(loud)
    assert verdict is Verdict.FAIL
    assert "combined (AUC 0.55, 60 members and 50 non-members, p = 0.0001)" in reasons[0]
    verdict, reasons = checkpoint(quiet, min_patients=51)
    assert verdict is Verdict.INCONCLUSIVE and "50 audit patients on one side are too few" in reasons[0]
    assert "with 60 members and 50 non-members, an AUC of 0.62 would be detected" in reasons[0]
    assert checkpoint(quiet, has_patient_ids=False)[0] is Verdict.INCONCLUSIVE


def test_a_control_that_finds_something_takes_the_meaning_from_every_attack() -> None:
    loud = attack("combined", passed=False, p_value=1e-4)
    verdict, reasons = checkpoint(loud, control_p=0.001)
    assert verdict is Verdict.INCONCLUSIVE and "control" in reasons[0]


def test_an_attack_beyond_the_guaranteed_epsilon_proves_the_guarantee_wrong() -> None:
    strong = attack("combined", passed=True, epsilon=3.2)
    assert checkpoint(strong, epsilon=8.0)[0] is Verdict.PASS
    verdict, reasons = checkpoint(strong, epsilon=3.0)
    assert verdict is Verdict.FAIL and "the training guarantees 3.00" in reasons[0]


def test_a_sign_short_of_failing_is_named_whatever_the_verdict_on_the_checkpoint() -> None:
    near = attack("combined", passed=True, p_value=0.02)
    verdict, reasons = checkpoint(near)
    assert verdict is Verdict.PASS and reasons[0].startswith("no attack reached significance")
    sign = "a sign that the model reveals who was in the training data, short of failing: combined (AUC"
    assert sign in reasons[1]
    verdict, reasons = checkpoint(near, min_patients=51)
    assert verdict is Verdict.INCONCLUSIVE and "a sign that the model reveals" in reasons[1]
    assert not [line for line in checkpoint(attack("combined", passed=True))[1] if "a sign that" in line]


def test_too_little_power_names_what_would_be_enough() -> None:
    weak = replace(STRONG, power={"a": 0.1}, would_do="about 350 candidates would be enough")
    part = judge_class("a", ENOUGH, (), weak)
    assert part.reasons[0].endswith("(needed: 0.80); about 350 candidates would be enough")
    assert part.power == 0.1
