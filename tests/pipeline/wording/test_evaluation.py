"""Every sentence about an evaluation's numbers is true at their intervals."""

from __future__ import annotations

import pytest

from pipeline.artifacts.evaluation_report import Estimate, EvaluationReport, Fidelity, UtilityVerdict
from pipeline.wording.evaluation import (
    chance_words,
    detail_words,
    effect_words,
    fidelity_words,
    misread_words,
)


def around(value: float, half: float | None, n: int = 40) -> Estimate:
    if half is None:
        return Estimate(value=value, n=n)
    return Estimate(value=value, low=value - half, high=value + half, n=n)


def fidelity(kid: Estimate, floor: Estimate) -> str:
    return fidelity_words(
        Fidelity(
            scope="all", kid=kid, kid_floor=floor, fid=None, fid_floor=None, num_synthetic=145, num_real=81
        )
    )


def test_blur_and_noise_are_told_where_the_intervals_lie_apart() -> None:
    def words(value: Estimate | None) -> str:
        part = {
            "scope": "all",
            "kid": around(1, 1),
            "kid_floor": around(1, 1),
            "fid": None,
            "fid_floor": None,
        }
        more = {} if value is None else {"detail_power": value, "detail_power_floor": around(1.0, 0.1)}
        return detail_words(Fidelity.model_validate({**part, "num_synthetic": 9, "num_real": 9, **more}))

    assert words(around(0.4, 0.2)) == "blurred: 0.40 of the power of real scans in the finest octave"
    assert words(around(1.5, 0.2)).startswith("noisy: 1.50 of the power")
    assert words(around(0.8, 0.2)) == words(around(0.1, None)) == words(None) == ""


def test_an_excess_over_the_floor_is_told_by_the_interval_of_the_difference() -> None:
    # The intervals themselves meet, .95 to 7.69 and -.5 to 1.2, and hid it; their difference leaves zero out.
    words = fidelity(around(4.32, 3.37), around(0.35, 0.85))
    assert words == (
        "farther from real scans than real scans are from each other, by 3.97 (95 % interval 0.494 to 7.45)"
    )
    assert "as near as" not in words


def test_an_excess_that_only_the_90_percent_interval_shows_is_possible() -> None:
    words = fidelity(around(3.0, 3.0), around(0.1, 0.5))
    assert words.startswith("possibly farther from real scans than real scans are from each other, by 2.9")
    assert "the 90 % interval lies above 0" in words


def test_what_a_wide_interval_hides_could_not_be_told_and_names_how_many_images_it_takes() -> None:
    words = fidelity(around(1.0, 3.0), around(0.0, 1.0))
    # A half width of root 10 shows 1.43 times as much; errors halve with four times the images.
    assert words == (
        "could not tell: with 145 synthetic and 81 real images, only an excess of 4.52 or more would be "
        "detected; the measured one of 1 needs about 21 times as many"
    )
    below = fidelity(around(-0.5, 3.0), around(0.0, 1.0))
    assert below.startswith("could not tell: with 145 synthetic") and "times as many" not in below


def test_an_excess_smaller_than_what_real_scans_show_among_one_another_would_have_been_noticed() -> None:
    words = fidelity(around(1.01, 0.02), around(1.0, 0.02))
    assert words == "not distinguished from real scans; 0.0404 above the floor would have been detected"


@pytest.mark.parametrize(("kid", "floor"), [(None, 0.1), (0.1, None)])
def test_without_an_interval_nothing_can_be_told(kid: float | None, floor: float | None) -> None:
    assert fidelity(around(4.0, kid), around(0.1, floor)).startswith("could not tell: too few images")


def test_a_change_that_is_told_needs_no_further_words() -> None:
    assert effect_words("helps", around(0.04, 0.01)) == effect_words("harms", around(-0.04, 0.01)) == ""
    assert effect_words("possibly helps", around(0.04, 0.041)).startswith(
        "The 90 % interval lies above zero; the 95 % interval does not. Detecting an effect of "
        "0.02 needs at least 170 test scans"
    )


def agreeing(agreement: dict[str, Estimate], real: dict[str, Estimate]) -> EvaluationReport:
    return EvaluationReport(
        cohort_digest="a" * 64, release_digest="b" * 64, extractor="", extractor_digest="", fidelity=(),
        arms=(), test_reads=0, curves={}, nearest={}, settings={}, label_agreement=agreement,
        label_agreement_shuffled={}, label_agreement_real=real,
        utility=UtilityVerdict(
            verdict="not measured", chosen_arm="", compared_with="", difference=None, words=""
        ),
    )  # fmt: skip


def test_a_class_that_is_misread_in_real_scans_too_says_nothing_of_its_labels() -> None:
    mass, clear = around(0.34, 0.1), around(0.97, 0.02)
    few = Estimate(value=3 / 13, low=0.05, high=0.54, n=13)
    known, words = misread_words(agreeing({"mass": mass, "normal": clear}, {"mass": few, "normal": clear}))
    assert not known
    assert "could not tell whether the labels or the classifier are at fault where the classifier" in words
    assert "is not clearly better on real scans: mass (23.1 % of 13" in words
    assert "normal" not in words
    assert misread_words(agreeing({"mass": mass}, {}))[0] is False


def test_a_class_that_is_read_better_in_real_scans_is_misread_for_its_labels() -> None:
    known, words = misread_words(
        agreeing(
            {"a": around(0.3, 0.1), "b": around(0.5, 0.2)}, {"a": around(0.9, 0.05), "b": around(0.6, 0.2)}
        )
    )
    assert known and "The classifier is better on real scans: a (90.0 % of 40 real scans" in words
    assert "could not tell whether" in words and ": b (60.0 %" in words


def test_the_classes_that_cannot_be_told_from_chance_are_named_with_the_images_it_takes() -> None:
    report = agreeing({"a": around(0.9, 0.05), "b": around(0.3, 0.15), "c": around(0.1, 0.1)}, {})
    control = {name: around(0.2, 0.15) for name in "abc"}
    words = chance_words(report.model_copy(update={"label_agreement_shuffled": control}))
    # Half widths of .15 and .15 over a gap of .1: nine times the 40 images.
    assert words.endswith("for b (40 images, about 360 needed to tell); c (40 images).")
    clear = {name: around(0.01, 0.01) for name in "ab"}
    report = report.model_copy(update={"label_agreement_shuffled": clear})
    assert chance_words(report) == ""
