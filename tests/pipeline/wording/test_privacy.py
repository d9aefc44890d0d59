"""Every sentence about a test of an audit is true at its power, and signs short of failing are named."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.artifacts.privacy_report import (
    ClassVerdict,
    MembershipResult,
    Needed,
    PrivacyReport,
    TestResult,
    Threshold,
)
from pipeline.records import Verdict
from pipeline.wording.privacy import (
    Levels,
    Outcome,
    attack_outcome,
    attack_outcomes,
    false_rejects,
    hardest_copy,
    model_words,
    needed_words,
    outcome,
    release_words,
    signs_of,
    tally,
    undecided_words,
    untold_words,
)
from tests.pipeline.wording.test_privacy_advice import audit

LEVELS = Levels()


def made(power: float | None, p_value: float = 1.0, passed: bool | None = True) -> TestResult:
    return TestResult(
        name="sign_test", view="halves", scope="pooled", num_samples=25, statistic=0.9, null_value=0.8,
        p_value=p_value, adjusted_p_value=p_value, power=power, power_against="2.0% planted copies",
        passed=passed,
    )  # fmt: skip


def attack(name: str, patients: tuple[int, int], p_value: float = 0.6, **fields: Any) -> MembershipResult:
    body: dict[str, Any] = {
        "attack": name, "members": patients[0], "non_members": patients[1], "auc": 0.55,
        "noticeable_auc": 0.62, "hit_rate": 0.1, "hit_rate_interval": (0.0, 0.3), "p_value": p_value,
        "adjusted_p_value": p_value, "passed": p_value >= 0.01, "epsilon_lower_bound": 0.0, "guesses": 10,
        "correct": 5,
    }  # fmt: skip
    return MembershipResult(**(body | fields))


def attacked(*attacks: MembershipResult, **fields: Any) -> PrivacyReport:
    return audit(Verdict.INCONCLUSIVE, tests=(made(0.0),), membership=attacks, **fields)


PHANTOM = attack("release_combined", (7, 6), 0.012, auc=0.929, noticeable_auc=1.0)


@pytest.mark.parametrize(
    ("power", "p_value", "passed", "said"),
    [
        (0.0, 1.0, True, Outcome.BLIND),
        (0.79, 1.0, True, Outcome.BLIND),
        (None, 1.0, True, Outcome.BLIND),
        (0.8, 1.0, True, Outcome.CLEAR),
        (0.8, 0.049, True, Outcome.SIGN),
        (0.0, 0.02, True, Outcome.SIGN),
        (0.0, 0.001, False, Outcome.FAILED),
        (0.9, 1.0, None, Outcome.NOT_RUN),
    ],
)
def test_nothing_found_counts_only_where_copies_would_have_been_noticed(
    power: float | None, p_value: float, passed: bool | None, said: Outcome
) -> None:
    assert outcome(made(power, p_value, passed), LEVELS) is said


@pytest.mark.parametrize(
    ("patients", "p_value", "said"),
    [
        ((40, 40), 0.6, Outcome.CLEAR),
        ((100, 39), 0.6, Outcome.BLIND),
        ((7, 6), 0.012, Outcome.SIGN),
        ((7, 6), 0.009, Outcome.FAILED),
    ],
)
def test_an_attack_on_few_patients_that_finds_nothing_could_not_tell(
    patients: tuple[int, int], p_value: float, said: Outcome
) -> None:
    assert attack_outcome(attack("loss", patients, p_value), LEVELS) is said


def test_the_levels_are_those_of_the_audits_settings() -> None:
    own = Levels.of({"significance": 0.001, "min_power": 0.5, "membership": {"min_patients": 10}})
    assert own == Levels(0.001, 0.5, 10)
    assert Levels.of({}) == LEVELS
    assert outcome(made(0.6), own) is Outcome.CLEAR


def test_tests_without_power_are_not_counted_as_passed() -> None:
    found = tally(audit(tests=tuple(made(0.0) for _ in range(33))))
    assert found.startswith("Of 33 tests on the images, none failed; 33 could not tell (each by itself")
    assert "found nothing" not in found
    mixed = tally(audit(tests=(made(0.9), made(0.1, 0.03), made(0.1), made(0.1, 0.001, passed=False))))
    assert "1 failed; 1 found a sign, short of failing; 1 found nothing and would have detected" in mixed
    assert "1 could not tell (each by itself" in mixed
    assert tally(audit(tests=())) == ""


def test_the_chance_of_all_tests_together_is_that_of_the_weakest_class() -> None:
    def of(power: float) -> ClassVerdict:
        return ClassVerdict(
            verdict=Verdict.PASS, asked=1, candidates=1, accepted=1, short=0, rejected={}, power=power
        )

    found = tally(audit(tests=(made(0.1),), classes={"a": of(0.93), "b": of(0.86)}))
    assert "together would detect 2.0% planted copies with a probability of 86 % in the class where" in found


def test_a_strong_attack_short_of_its_threshold_is_a_sign_everywhere() -> None:
    report = attacked(PHANTOM, attack("release_components", (7, 6), noticeable_auc=1.0))
    (sign,) = signs_of(report)
    assert "a sign that the accepted images reveal who was in the training data, short of failing" in sign
    assert "release_combined (AUC 0.93, 7 members and 6 non-members, p = 0.012)" in sign
    top = undecided_words(report)
    assert "too weak to tell, and there is a sign of a leak" in top and "AUC 0.93" in top
    words = release_words(report)
    assert words.startswith("The released images show a sign of revealing who was in the training data")
    assert "only a nearly perfect attack would be detected" in words
    assert "an AUC of 0.70 needs" in words and "patients on each side" in words


def test_nothing_found_of_few_patients_could_not_be_told_and_of_many_names_what_would_have_been() -> None:
    few = attacked(attack("release_combined", (7, 6), noticeable_auc=1.0))
    assert signs_of(few) == ()
    assert undecided_words(few) == "No test failed, but the tests were too weak to tell."
    told = release_words(few)
    assert told.startswith("The attacks could not tell whether the released images reveal who was in the tr")
    many = release_words(attacked(attack("release_combined", (90, 80))))
    assert many.startswith("No attack inferred who was in the training data from the released images.")
    assert "an AUC of 0.62 would be detected with a probability of 80 %" in many
    loud = release_words(attacked(attack("release_combined", (90, 80), 0.001)))
    assert loud.startswith("The released images reveal who was in the training data: release_combined")
    hopeless = release_words(attacked(attack("release_combined", (4, 4), noticeable_auc=1.0)))
    assert "not even a perfect attack would be significant" in hopeless
    assert release_words(attacked()) == ""


def test_a_pass_says_what_it_leaves_open_of_patients_too_few_to_tell() -> None:
    few, many = attack("release_combined", (7, 6), noticeable_auc=1.0), attack("release_combined", (90, 80))
    (left,) = untold_words(attacked(few))
    assert left.startswith("The attacks could not tell whether the released images reveal who was in the tr")
    assert untold_words(attacked(many)) == untold_words(attacked()) == []


def test_the_model_is_spoken_of_by_its_own_attacks_and_not_at_all_where_a_control_is_loud() -> None:
    controls = [
        attack("control_members", (20, 20), p, adjusted_p_value=None, passed=None) for p in (0.5, 0.001)
    ]
    own = attack("combined", (90, 80))
    quiet = model_words(attacked(own, controls[0], PHANTOM))
    assert quiet.startswith("No attack inferred who was in the training data from the model itself.")
    loud = model_words(attacked(own, *controls))
    assert loud.startswith("The attacks could not tell whether the model itself reveals who was in the trai")
    assert "a control, which must find nothing, found something (control_members" in loud
    assert model_words(attacked(PHANTOM)) == ""
    said = attack_outcomes(attacked(own, *controls, PHANTOM))
    assert said == [Outcome.CLEAR, Outcome.BLIND, Outcome.LOUD, Outcome.SIGN]


def needs(
    candidates: int | None,
    real_scans: int | None,
    stands_out: float = 0.9,
    together: tuple[int, int] | None = None,
) -> str:
    return needed_words(
        Needed(
            planted_share=0.02,
            chance=0.8,
            candidates=candidates,
            real_scans=real_scans,
            together=together,
            compared=615,
            stands_out=stands_out,
        )
    )


def test_what_it_would_take_is_rounded_up_and_says_where_no_number_would_do() -> None:
    assert needs(950, None) == "about 950 candidates would be enough"
    assert needs(1_234, 4_321) == (
        "about 1,300 candidates or about 4,400 real scans of train and holdout would be enough"
    )
    assert needs(None, 700).startswith(
        "with 615 real scans no number of candidates would be enough; about 700"
    )
    assert needs(None, None, 0.31).startswith(
        "31 % of the planted copies stand out farther than real scans do"
    )
    assert needs(None, None, 0.76, (412, 1_014)).startswith(
        "about 420 candidates together with about 1,100 real scans of train and holdout would be enough"
    )
    assert needed_words(None) == ""


def rejecting(rate: float | None, interval: tuple[float, float] | None) -> str:
    threshold = Threshold(
        view="halves", rule="", value=0.0, false_reject_rate=rate, interval=interval, num_fresh=64
    )
    return false_rejects(
        audit(false_reject_rate=rate, false_reject_interval=interval, thresholds=(threshold,))
    )


def test_false_rejects_say_whether_the_budget_is_kept_as_far_as_that_can_be_told() -> None:
    assert rejecting(0.01, (0.0, 0.04)).endswith("of 64 real scans that were not used for tuning were "
        "rejected by all rules together (95 % interval 0.0 % to 4.0 %; budget 5 %): within the "
        "budget.")  # fmt: skip
    wide = rejecting(0.047, (0.01, 0.131))
    assert "could not tell whether the rate is within the budget; at this rate about" in wide
    assert rejecting(0.06, (0.02, 0.14)).endswith("could not tell whether the rate is within the budget.")
    assert rejecting(0.12, (0.06, 0.2)).endswith("more than the budget.")
    assert rejecting(None, None) == "Not measured (budget 5 %)."


def test_the_copy_that_is_caught_least_is_named_with_its_interval() -> None:
    planted = {
        "exact": {"recall": 1.0, "low": 0.86, "high": 1.0, "n": 24.0},
        "blend_50pct": {"recall": 17 / 24, "low": 0.49, "high": 0.87, "n": 24.0},
    }
    words = hardest_copy(audit(planted=planted))
    assert words.endswith("was blend 50pct (71 % of 24, 95 % interval 49 % to 87 %).")
    assert hardest_copy(audit(planted={})) == ""
