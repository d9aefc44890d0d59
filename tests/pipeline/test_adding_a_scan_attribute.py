"""A scan attribute is one entry of a table: with it, it reaches from manifest and header to the release."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.artifacts.cohort import ATTRIBUTES, UNKNOWN, Cohort
from pipeline.artifacts.conditions import CohortConditions
from pipeline.errors import DataError
from pipeline.ingest.writing.attributes import AttributeCodes
from pipeline.storage import read_json, write_json
from tests.cohorts import write_cohort

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what a process finds in whose table the attribute stands from the start."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.pipeline.added_attribute", str(tmp_path_factory.mktemp("added"))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_manifest_names_its_column_and_a_header_tells_where_no_table_does(found: dict[str, Any]) -> None:
    ingested = found["ingested"]
    assert ingested["keys"] == ["sex", "age", "view", "part"]
    assert ingested["records"] == {"abdomen": 16, "chest": 15, "": 1}


def test_the_cohort_keeps_it_behind_the_others(found: dict[str, Any]) -> None:
    ingested = found["ingested"]
    assert ingested["columns"][-5:] == ["sex", "age_band", "view", "body_part", "findings"]
    assert ingested["shape"][1] == 4 and ingested["values"] == ["abdomen", "chest"]
    assert ingested["codes"] == [16, 15, 1]


def test_it_is_trained_on_asked_for_and_released(found: dict[str, Any]) -> None:
    released = found["released"]
    assert released["conditions"] == ['{"body_part":"chest"}']
    assert released["cells"] == ["chest"] and released["verified"]
    meaning = "Part of the body that the image was generated for."
    assert released["croissant"] == [meaning] and f" | {meaning} |" in released["card"]
    assert released["page"]


def test_an_attribute_of_more_values_than_a_byte_tells_is_refused() -> None:
    codes = AttributeCodes()
    for number in range(255):
        codes.add(("", "", f"v{number}"))
    codes.add(("F", "", "v254"))
    with pytest.raises(DataError, match=r"attributes\.view: has more than 255 values"):
        codes.add(("", "", "one more"))
    known, found = codes.finish()
    assert len(known["view"]) == 255 and found[-1, 2] == found[-2, 2] != UNKNOWN


def test_a_cohort_made_before_an_attribute_was_kept_is_read_as_it_is(tmp_path: Path) -> None:
    sexes = ["F", "M"] * 20
    ref = write_cohort(tmp_path / "c", num_scans=40, attributes={"sex": sexes, "view": ["PA", "AP"] * 20})
    path, codes = ref.path / "cohort.json", np.load(ref.path / "attributes.npy")
    body = read_json(path, role="cohort")
    del body["attributes"]["age_band"]
    write_json(path, body, private=True)
    np.save(ref.path / "attributes.npy", np.delete(codes, ATTRIBUTES.index("age_band"), axis=1))
    cohort = Cohort(ref.path)
    assert cohort.attribute_names == ("sex", "view")
    conditions = CohortConditions(cohort, ("sex", "view"))
    assert [field.values for field in conditions.fields] == [("F", "M"), ("AP", "PA")]
    assert (conditions.codes(np.arange(4))[:, 1:] == [[0, 1], [1, 0]] * 2).all()
    with pytest.raises(DataError, match="no train scan has this attribute"):
        CohortConditions(cohort, ("age_band",))
