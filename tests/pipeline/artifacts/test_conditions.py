"""Attributes and findings become codes of what varies in training, and counts that single out nobody."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from pipeline.artifacts.cohort import PATIENTS_NAME, Cohort
from pipeline.artifacts.condition_counts import Combination, count_combinations
from pipeline.artifacts.conditions import CohortConditions, ConditionField
from pipeline.errors import DataError
from pipeline.train import TrainSettings
from tests.cohorts import write_cohort

ALL_TRAIN = (1.0, 0.0, 0.0, 0.0)


def cohort_of(
    folder: Path,
    count: int,
    *,
    attributes: Mapping[str, Sequence[str]] | None = None,
    findings: Mapping[str, Sequence[int]] | None = None,
    **other: Any,
) -> Cohort:
    """Return a cohort of blank-ish 8x8 scans, two a patient, all of one class unless `labels` says more."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 1, 8, 8), dtype=np.uint8)
    fields = {"labels": np.zeros(count, dtype=np.int64), "shares": ALL_TRAIN, **other}
    return Cohort(
        write_cohort(folder, pixels=pixels, attributes=attributes, findings=findings, **fields).path
    )


def test_fields_hold_sorted_train_values_and_unknown_ones_are_null(tmp_path: Path) -> None:
    cohort = cohort_of(
        tmp_path / "c",
        8,
        attributes={"sex": ["M", "F", "", "M"] * 2, "view": ["PA", "PA", "AP", ""] * 2},
        findings={"mass": [0, 1, 2, 0] * 2, "edema": [1, 0, 0, 0] * 2},
        labels=np.array([0, 1] * 4),
    )
    conditions = CohortConditions(cohort, ("sex", "view", "findings"))
    assert conditions.fields == (
        ConditionField(name="sex", values=("F", "M")),
        ConditionField(name="view", values=("AP", "PA")),
        ConditionField(name="edema", values=("absent", "present")),
        ConditionField(name="mass", values=("absent", "present")),
    )
    assert conditions.num_values == (2, 2, 2, 2)
    codes = conditions.codes(np.array([3, 0, 1, 2]))
    assert codes.dtype == np.int64
    assert codes.tolist() == [[1, 1, 2, 0, 0], [0, 1, 1, 1, 0], [1, 0, 1, 0, 1], [0, 2, 0, 0, 2]]
    assert np.array_equal(CohortConditions(cohort).codes(np.arange(8)), cohort.labels[:, None])


def test_a_value_of_other_splits_alone_is_null_and_what_never_varies_is_left_out(
    tmp_path: Path,
) -> None:
    cohort = cohort_of(tmp_path / "c", 200, shares=(0.5, 0.5, 0.0, 0.0))
    train = np.asarray(cohort.split) == 0
    cohort = cohort_of(
        tmp_path / "d",
        200,
        attributes={"sex": np.where(train, np.where(np.arange(200) % 3, "F", "M"), "O").tolist(),
                    "view": ["PA"] * 200},
        findings={"mass": np.arange(200) % 2, "hernia": np.zeros(200, int)},
        shares=(0.5, 0.5, 0.0, 0.0),
    )  # fmt: skip
    conditions = CohortConditions(cohort, ("sex", "view", "findings"))
    assert [field.name for field in conditions.fields] == ["sex", "mass"]
    assert conditions.fields[0].values == ("F", "M")
    assert conditions.left_out == ("view", "hernia")
    assert set(conditions.codes(cohort.rows("val"))[:, 1].tolist()) == {2}


@pytest.mark.parametrize(
    ("asked", "match"),
    [
        (("age_band",), "no train scan has this attribute"),
        (("view",), "0 fields vary"),
        (("findings",), "no findings"),
    ],
)
def test_what_the_cohort_does_not_hold_is_refused(tmp_path: Path, asked: Any, match: str) -> None:
    cohort = cohort_of(tmp_path / "c", 4, attributes={"sex": ["F", "M"] * 2, "view": ["PA"] * 4})
    with pytest.raises(DataError, match=match) as caught:
        CohortConditions(cohort, asked)
    assert caught.value.exit_code == 3


def test_a_cohort_without_attributes_file_says_to_ingest_again(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="ingest again"):
        CohortConditions(cohort_of(tmp_path / "c", 4), ("sex",))


def test_a_finding_named_like_a_column_is_refused(tmp_path: Path) -> None:
    cohort = cohort_of(tmp_path / "c", 4, findings={"width": [0, 1, 0, 1]})
    with pytest.raises(DataError, match="cannot have this name"):
        CohortConditions(cohort, ("findings",))


def test_files_of_another_length_are_refused(tmp_path: Path) -> None:
    cohort = cohort_of(tmp_path / "c", 8, attributes={"sex": ["F", "M"] * 4}, findings={"mass": [0, 1] * 4})
    for name, asked in (("attributes.npy", "sex"), ("findings.npy", "findings")):
        np.save(cohort.folder / name, np.zeros((7, 3), np.uint8))
        with pytest.raises(DataError, match=f"{name} does not fit"):
            CohortConditions(cohort, (asked,))  # type: ignore[arg-type]


def test_rare_combinations_lose_their_attributes_and_rare_findings_are_left_out(tmp_path: Path) -> None:
    # Two scans a patient. 10 patients F 40-49, 3 M 40-49 and 3 M 90+ (together 6 M), 1 with a finding.
    patients = (
        [("F", "40-49", 0)] * 10 + [("M", "40-49", 0)] * 3 + [("M", "90+", 0)] * 3 + [("F", "40-49", 1)]
    )
    scans = [patient for patient in patients for _ in range(2)]
    cohort = cohort_of(
        tmp_path / "c",
        len(scans),
        attributes={"sex": [s[0] for s in scans], "age_band": [s[1] for s in scans]},
        findings={"mass": [s[2] for s in scans]},
    )
    conditions = CohortConditions(cohort, ("sex", "age_band", "findings"))
    assert count_combinations(cohort, conditions, min_patients=5) == (
        Combination(label=0, codes=(0, 0, 0), scans=20),
        Combination(label=0, codes=(1, 2, 0), scans=12),
    )
    everything = count_combinations(cohort, conditions, min_patients=1)
    assert sum(row.scans for row in everything) == len(scans)
    assert Combination(label=0, codes=(0, 0, 1), scans=2) in everything
    assert count_combinations(cohort, conditions, min_patients=1000) == ()


def test_patients_count_and_not_their_scans(tmp_path: Path) -> None:
    sexes = ["F"] * 40 + ["M"] * 40
    cohort = cohort_of(tmp_path / "c", 80, attributes={"sex": sexes}, images_per_patient=10)
    conditions = CohortConditions(cohort, ("sex",))
    assert [row.codes for row in count_combinations(cohort, conditions, min_patients=4)] == [(0,), (1,)]
    assert [row.codes for row in count_combinations(cohort, conditions, min_patients=5)] == [(2,)]
    (cohort.folder / PATIENTS_NAME).unlink()
    with pytest.raises(DataError, match="Ingest again"):
        count_combinations(cohort, conditions, min_patients=5)


def test_settings_bring_conditions_into_one_order_and_refuse_unknown_ones() -> None:
    assert TrainSettings(conditions=("findings", "sex", "sex")).conditions == ("sex", "findings")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="conditions"):
        TrainSettings(conditions=("age",))  # type: ignore[arg-type]


def test_codes_need_no_table_library(tmp_path: Path) -> None:
    cohort = cohort_of(tmp_path / "c", 8, attributes={"sex": ["F", "M"] * 4}, findings={"mass": [0, 1] * 4})
    program = (
        "import sys, json, numpy as np\nfrom pathlib import Path\n"
        "sys.modules['pandas'] = sys.modules['pyarrow'] = None\n"
        "from pipeline.artifacts.cohort import Cohort\n"
        "from pipeline.artifacts.conditions import CohortConditions\n"
        "from pipeline.artifacts.condition_counts import count_combinations\n"
        "cohort = Cohort(Path(sys.argv[1]))\n"
        "found = CohortConditions(cohort, ('sex', 'findings'))\n"
        "count_combinations(cohort, found, min_patients=1)\n"
        "print(json.dumps(found.codes(np.arange(2)).tolist()))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(cohort.folder)],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).resolve().parents[3],
    )
    assert json.loads(done.stdout) == [[0, 0, 0], [0, 1, 1]]
