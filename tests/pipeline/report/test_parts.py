"""Parts of the report: numbers as printed, judgements in words, charts that hold what they were given."""

from __future__ import annotations

import base64
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.artifacts.checkpoint import CheckpointInfo
from pipeline.artifacts.evaluation_report import ArmResult, Estimate
from pipeline.artifacts.privacy_report import PrivacyReport
from pipeline.records import Verdict
from pipeline.rendering import formats
from pipeline.report.figures import (
    ordered_arms,
    read_progress,
    recall_chart,
    training_chart,
    utility_chart,
)
from pipeline.report.grids import spread
from pipeline.report.sections import _steps

SPACE = "\u00a0"


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.0 s"),
        (9.96, "10.0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (3599.7, "1 h 00 min"),
        (3840, "1 h 04 min"),
        (-1, "–"),
        (float("nan"), "–"),
        (None, "–"),
    ],
)
def test_durations_read_as_people_say_them(value: float | None, shown: str) -> None:
    assert formats.duration(value).replace(SPACE, " ") == shown


@given(st.floats(min_value=10, max_value=1e7))
def test_a_duration_is_right_to_its_last_unit(seconds: float) -> None:
    parts = formats.duration(seconds).replace(SPACE, " ").split()
    units = {"s": 1, "min": 60, "h": 3600}
    total = sum(int(parts[i]) * units[parts[i + 1]] for i in range(0, len(parts), 2))
    assert abs(total - seconds) <= units[parts[-1]] / 2 + 1e-6


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (formats.number(-0.0004, 3), "0.000"),
        (formats.number(-0.31, 2), "−0.31"),
        (formats.number(float("inf")), "–"),
        (formats.percent(0.0004), f"0.0{SPACE}%"),
        (formats.whole_percent_below(0.997), f"99{SPACE}%"),
        (formats.whole_percent_below(0.29), f"29{SPACE}%"),
        (formats.whole_percent_below(1.0), f"100{SPACE}%"),
        (formats.p_value(1e-9), f"<{SPACE}0.001"),
        (formats.p_value(0.042), "0.042"),
        (formats.plural(1, "image"), "1 image"),
        (formats.plural(1200, "image"), "1,200 images"),
        (formats.sentence("only 3 of 4 passed"), "Only 3 of 4 passed."),
        (formats.sentence("Done."), "Done."),
        (formats.sentence(" "), ""),
        (formats.digest(""), "–"),
        (formats.interval(Estimate(value=0.5)), ""),
        (formats.interval(Estimate(value=0.5, low=-0.1, high=0.6), 1), "−0.1 to 0.6"),
    ],
)
def test_numbers_have_one_spelling(shown: str, expected: str) -> None:
    assert shown == expected


@given(st.integers(1, 500), st.integers(2, 40))
def test_shown_rows_are_spread_from_first_to_last(total: int, wanted: int) -> None:
    rows = np.arange(100, 100 + total)
    shown = spread(rows, wanted)
    assert len(shown) == min(total, wanted)
    assert len(set(shown.tolist())) == len(shown)
    assert shown[0] == rows[0]
    assert shown[-1] == rows[-1]


def _arm(name: str, ratio: float | None, auc: float) -> ArmResult:
    return ArmResult(
        arm=name,
        ratio=ratio,
        num_real=0 if name == "synthetic" else 10,
        num_synthetic=10 if "synthetic" in name else 0,
        val={"auc": Estimate(value=auc, low=auc - 0.1, high=auc + 0.1)},
        test={},
        seeds=(0,),
        val_auc_by_seed=(auc,),
        test_auc_by_seed=(),
    )


def _drawn(address: str) -> ElementTree.Element:
    head, body = address.split(",")
    assert head == "data:image/svg+xml;base64"
    text = base64.b64decode(body).decode()
    assert "<!DOCTYPE" not in text
    assert "http" not in text.replace("http://www.w3.org/", "")
    return ElementTree.fromstring(text)


def test_arms_stand_real_first_and_by_ratio() -> None:
    names = [
        ("synthetic", None),
        ("real_synthetic", 1.0),
        ("own", None),
        ("real_synthetic", 0.25),
        ("real", None),
    ]
    ordered = ordered_arms([_arm(name, ratio, 0.8) for name, ratio in names])
    assert [(arm.arm, arm.ratio) for arm in ordered] == [
        ("real", None),
        ("real_synthetic", 0.25),
        ("real_synthetic", 1.0),
        ("synthetic", None),
        ("own", None),
    ]


def test_the_utility_chart_draws_every_arm_and_survives_hostile_names() -> None:
    few = [_arm("real", None, 0.8)]
    more = [*few, _arm("synthetic", None, 0.7), _arm("$\\frac{1}{0}$ <b>", 0.5, 0.6)]
    height_of_few = float(_drawn(utility_chart(few, chosen="", compared="")).attrib["height"].rstrip("pt"))
    height = float(
        _drawn(utility_chart(more, chosen="synthetic", compared="real")).attrib["height"].rstrip("pt")
    )
    assert height > height_of_few
    assert utility_chart([], chosen="", compared="") == ""
    assert utility_chart(more, chosen="", compared="") == utility_chart(more, chosen="", compared="")


def test_progress_is_read_without_its_damaged_rows(tmp_path: Path) -> None:
    path = tmp_path / "progress.csv"
    path.write_text(
        "step,images,seconds,loss,images_per_second,learning_rate\n"
        "1,64,0.4,0.9,170,1e-3\n2,128,0.8,nan,170,1e-3\n3,192\n4,256,1.6,0.5,180,1e-3\n"
    )
    progress = read_progress(path)
    assert progress["step"].tolist() == [1, 4]
    assert progress["loss"].tolist() == [0.9, 0.5]
    _drawn(training_chart(progress))
    assert read_progress(tmp_path / "missing.csv") == {}
    assert training_chart({}) == ""


def report_of(planted: dict[str, dict[str, float]], strengths: dict[str, dict[str, float]]) -> PrivacyReport:
    return PrivacyReport(
        verdict=Verdict.PASS,
        reasons=(),
        policy_note="",
        cohort_digest="c" * 64,
        candidates_digest="d" * 64,
        checkpoint_digest="",
        has_patient_ids=True,
        classes={},
        tests=(),
        thresholds=(),
        reference_counts={},
        false_reject_budget=0.05,
        false_reject_rate=None,
        false_reject_interval=None,
        planted=planted,
        planted_strengths=strengths,
        not_covered=(),
        settings={},
    )


def test_recall_is_drawn_by_family_and_survives_damaged_figures() -> None:
    kinds = {"shift_2": 2.0, "shift_3": 3.0}
    whole = {"recall": 0.9, "low": 0.8, "high": 0.95, "n": 48.0}
    _drawn(recall_chart(report_of(dict.fromkeys(kinds, whole), {"shift": kinds, "crop": kinds})))
    _drawn(recall_chart(report_of({kind: {"recall": 7.0} for kind in kinds}, {"shift": kinds})))
    assert recall_chart(report_of({"shift_2": whole}, {"shift": kinds})) == ""
    assert recall_chart(report_of({}, {})) == ""


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({}, False),
        ({"num_steps": 400, "max_minutes": None}, False),
        ({"num_steps": 400, "max_minutes": 5.0}, False),
        ({"num_steps": 1800, "max_minutes": 4.5}, True),
        ({"num_steps": 1800, "max_minutes": 4.5, "stop_when_memorising": True}, False),
    ],
)
def test_steps_that_time_did_not_suffice_for_are_told(settings: dict[str, object], told: bool) -> None:
    # The third case of stopping: the weights of step 300 were kept, since the later ones memorised.
    info = CheckpointInfo.model_construct(num_steps=400, images_seen=25_600, ema_step=300)
    said = _steps(settings, info)
    assert ("train.max_minutes=4.5 ended the training" in said) == told
    assert said.startswith("400 of 1,800 (25,600 images seen)" if told else "400 (25,600 images seen)")
