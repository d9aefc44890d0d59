"""What to change is said for whatever an audit found, and in the words of whoever drew the images."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.artifacts.privacy_report import (
    COPY_COUNT,
    ClassVerdict,
    MembershipResult,
    Needed,
    PrivacyReport,
    TestResult,
)
from pipeline.records import Policy, Verdict
from pipeline.wording.privacy_advice import what_to_change


def part(verdict: Verdict, short: int = 0, power: float | None = None) -> ClassVerdict:
    return ClassVerdict(
        verdict=verdict, asked=12, candidates=15, accepted=12 - short, short=short, rejected={}, power=power
    )


def outcome(
    passed: bool | None, scope: str = "pooled", power: float | None = 0.9, name: str = "sign_test"
) -> TestResult:
    return TestResult(
        name=name, view="halves", scope=scope, num_samples=15, statistic=0.9, null_value=0.8,
        p_value=0.1, adjusted_p_value=0.1, power=power, passed=passed,
    )  # fmt: skip


def attacked(attack: str, passed: bool | None) -> MembershipResult:
    return MembershipResult(
        attack=attack, members=40, non_members=40, auc=0.7, noticeable_auc=0.7, hit_rate=0.1,
        hit_rate_interval=(0.0, 0.2), p_value=0.001, adjusted_p_value=0.004, passed=passed,
        epsilon_lower_bound=0.0, guesses=10, correct=8,
    )  # fmt: skip


def audit(verdict: Verdict = Verdict.PASS, **fields: Any) -> PrivacyReport:
    body: dict[str, Any] = {
        "verdict": verdict,
        "reasons": (),
        "policy_note": "",
        "cohort_digest": "a" * 64,
        "candidates_digest": "b" * 64,
        "checkpoint_digest": "c" * 64,
        "has_patient_ids": True,
        "classes": {"disc": part(verdict), "bar": part(Verdict.PASS)},
        "tests": (outcome(None),),
        "thresholds": (),
        "reference_counts": {},
        "false_reject_budget": 0.05,
        "false_reject_rate": None,
        "false_reject_interval": None,
        "planted": {},
        "not_covered": (),
        "settings": {"min_power": 0.8},
    }
    return PrivacyReport(**(body | fields))


def test_nothing_has_to_change_where_all_passes() -> None:
    assert what_to_change(audit()) == []
    assert what_to_change(audit(checkpoint_verdict=Verdict.PASS)) == []


@pytest.mark.parametrize(
    ("tests", "attacks", "said"),
    [
        (
            (outcome(False, "disc"),),
            (),
            "The most copy-like images of class disc lie nearer to training scans",
        ),
        ((outcome(False),), (), "The most copy-like images of the whole set lie nearer to training scans"),
        (
            (outcome(False, name=COPY_COUNT),),
            (),
            "More images of the set stand out as copies than real scans account for",
        ),
        (
            (outcome(None),),
            (attacked("release_combined", False),),
            "The accepted images reveal who was in the training data.",
        ),
        (
            (outcome(False),),
            (attacked("release_correlation", False),),
            "than chance explains, and the accepted images reveal who was in the training data.",
        ),
    ],
)
def test_whatever_fails_has_a_remedy(
    tests: tuple[TestResult, ...], attacks: tuple[MembershipResult, ...], said: str
) -> None:
    found = audit(Verdict.FAIL, tests=tests, membership=(*attacks, attacked("control_members", None)))
    (step,) = what_to_change(found)
    assert said in step and "train.augment" in step
    (step,) = what_to_change(found.model_copy(update={"checkpoint_digest": ""}))
    assert said in step and "train." not in step and "sample and audit again" in step


def test_a_class_that_runs_short_is_drawn_again_or_asked_less_of() -> None:
    short = audit(Verdict.FAIL, classes={"disc": part(Verdict.FAIL, 1), "bar": part(Verdict.FAIL, 12)})
    (step,) = what_to_change(short)
    assert "disc (1 of 12 missing), bar (12 of 12 missing)" in step and "sample.overdraw" in step
    (foreign,) = what_to_change(short.model_copy(update={"checkpoint_digest": ""}))
    assert "disc, bar passes; look at the reasons" in foreign and "sample." not in foreign
    # Of a generator that repeats its scans more is no remedy.
    (step,) = what_to_change(short.model_copy(update={"tests": (outcome(False),)}))
    assert "training scans" in step and "sample.overdraw" not in step


def test_weak_tests_name_what_makes_them_stronger_and_the_policy_that_would_release() -> None:
    # What decides is the chance of all tests together: each by itself may be weak where a set passes.
    classes = {"disc": part(Verdict.INCONCLUSIVE, power=0.41), "bar": part(Verdict.PASS, power=0.9)}
    tests = (outcome(None, power=0.0), outcome(None, power=None))
    needed = Needed(
        planted_share=0.02, chance=0.8, candidates=950, real_scans=None, compared=600, stands_out=0.9
    )
    weak = audit(Verdict.INCONCLUSIVE, tests=tests, classes=classes, needed=needed)
    steps = what_to_change(weak)
    assert "with a probability of 41 % in the class where they are weakest; PASS needs 80 %" in steps[0]
    assert "sample.per_class" in steps[0] and steps[0].endswith(": about 950 candidates would be enough.")
    assert "release.policy=research" in steps[1]
    assert len(what_to_change(weak, Policy.RESEARCH)) == 1
    (foreign,) = what_to_change(weak.model_copy(update={"checkpoint_digest": ""}))
    assert "more of the generator's images" in foreign
    (few,) = what_to_change(audit(Verdict.INCONCLUSIVE), Policy.RESEARCH)
    assert few.startswith("More patients in the holdout")
    (unknown,) = what_to_change(audit(Verdict.INCONCLUSIVE, has_patient_ids=False), Policy.RESEARCH)
    assert "caps the verdict at INCONCLUSIVE" in unknown


def test_a_checkpoint_that_tells_is_kept_in_house_though_its_images_may_go() -> None:
    (step,) = what_to_change(audit(checkpoint_verdict=Verdict.FAIL))
    assert step.startswith("The checkpoint itself reveals who was in the training data")
    assert "train.dp.epsilon" in step


def test_attacks_on_too_few_patients_name_how_many_it_takes() -> None:
    few = attacked("release_combined", True).model_copy(
        update={"members": 7, "non_members": 6, "noticeable_auc": 1.0, "adjusted_p_value": 0.5}
    )
    steps = what_to_change(audit(Verdict.INCONCLUSIVE, membership=(few,)), Policy.RESEARCH)
    (step,) = [one for one in steps if "ingest.audit_share" in one]
    assert "With 7 members and 6 non-members" in step
    assert "an AUC of 0.60 needs" in step and "patients on each side" in step
    enough = few.model_copy(update={"members": 40, "non_members": 40})
    steps = what_to_change(audit(Verdict.INCONCLUSIVE, membership=(enough,)), Policy.RESEARCH)
    assert not [one for one in steps if "ingest.audit_share" in one]
