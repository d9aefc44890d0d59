"""What images were asked to show becomes columns that users' tools read; other releases stay as they were."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.artifacts.candidates import Candidates
from pipeline.artifacts.conditions import RESERVED_NAMES
from pipeline.errors import DataError, TamperedError
from pipeline.release import ReleaseSettings, run_release, verify_release
from pipeline.release.conditions import ConditionColumns, columns_of_schema
from pipeline.release.layout import COLUMNS
from pipeline.release.tables import read_rows, write_tables
from tests.pipeline.release.sets import make_audit, make_candidates
from tests.pipeline.release.test_verify import make_sums_right

CONDITIONS = (
    '{"sex":"F","age_band":"90+","findings":{"mass":1,"pleural_thickening":0}}',
    '{"sex":null,"age_band":"40-49","findings":{"mass":0,"pleural_thickening":1}}',
    '{"sex":"M","age_band":"40-49","findings":{"mass":1,"pleural_thickening":1}}',
)
COLUMN_NAMES = ["sex", "age_band", "mass", "pleural_thickening"]


def release_with(folder: Path, conditions: tuple[str, ...], **audit: Any) -> Path:
    candidates = make_candidates(folder / "candidates", conditions=conditions)
    audited = make_audit(folder / "audit", candidates, **audit)
    run_release(candidates, audited, folder / "release", ReleaseSettings(), seed=1)
    return folder / "release"


@pytest.fixture(scope="module")
def conditioned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return release_with(tmp_path_factory.mktemp("conditions"), CONDITIONS)


def asked(release: Path) -> dict[str, dict[str, Any]]:
    """Return what each image was asked to show by its id, from the candidates."""
    table = Candidates(release.parent / "candidates").table
    flat = {}
    for name, text in zip(table["sample_id"], table["condition"], strict=True):
        body = json.loads(text)
        flat[str(name)] = {**{k: v for k, v in body.items() if k != "findings"}, **body["findings"]}
    return flat


def test_pandas_gets_the_conditions_back_from_both_tables(conditioned: Path) -> None:
    verify_release(conditioned)
    wanted = asked(conditioned)
    for table in (
        pd.read_csv(conditioned / "metadata.csv"),
        pd.read_parquet(conditioned / "metadata.parquet"),
    ):
        assert list(table.columns) == [*COLUMNS, *COLUMN_NAMES]
        assert len(table) == 10
        for row in table.to_dict("records"):
            told = {name: None if pd.isna(row[name]) else row[name] for name in COLUMN_NAMES}
            assert told == wanted[row["sample_id"]]


def test_datasets_and_monai_get_the_findings_back(
    conditioned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from monai.data import load_decathlon_datalist

    datasets = pytest.importorskip("datasets", reason="datasets is not installed")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    wanted = asked(conditioned)
    files = {"train": [str(conditioned / "metadata.csv"), str(conditioned / "images" / "**" / "*.png")]}
    loaded = datasets.load_dataset(
        "imagefolder", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert len(loaded) == 10
    assert {row["sample_id"]: {k: row[k] for k in COLUMN_NAMES} for row in loaded} == {
        row["sample_id"]: wanted[row["sample_id"]] for row in loaded
    }
    items = load_decathlon_datalist(
        conditioned / "datalist.json", is_segmentation=False, data_list_key="training", base_dir=conditioned
    )
    for item in items:
        assert {k: item[k] for k in COLUMN_NAMES} == wanted[Path(item["image"]).stem]


def test_card_and_croissant_name_the_conditions(conditioned: Path) -> None:
    card = (conditioned / "DATASET_CARD.md").read_text()
    assert "## Conditions" in card
    assert r"| pleural\_thickening | 1: the image was generated to show pleural\_thickening" in card
    body = json.loads((conditioned / "croissant.json").read_text())
    types = {field["name"]: field["dataType"] for field in body["recordSet"][0]["field"]}
    # A column with an empty cell is left out.
    assert types["mass"] == types["pleural_thickening"] == "sc:Integer"
    assert types["age_band"] == "sc:Text"
    assert "sex" not in types


def test_mlcroissant_yields_the_findings(conditioned: Path) -> None:
    mlcroissant = pytest.importorskip("mlcroissant", reason="mlcroissant is not installed")
    dataset = mlcroissant.Dataset(jsonld=os.fspath(conditioned / "croissant.json"))
    assert not dataset.metadata.ctx.issues.errors
    wanted = asked(conditioned)
    for record in dataset.records(record_set="images"):
        assert record["images/mass"] == wanted[record["images/sample_id"].decode()]["mass"]


def test_a_release_of_classes_alone_names_no_conditions(release: Path) -> None:
    assert tuple(pd.read_parquet(release / "metadata.parquet").columns) == COLUMNS
    assert "## Conditions" not in (release / "DATASET_CARD.md").read_text()
    items = json.loads((release / "datalist.json").read_text())["training"]
    assert {tuple(item) for item in items} == {("class", "image", "label")}


def test_no_finding_can_be_named_like_a_column() -> None:
    assert set(COLUMNS) <= RESERVED_NAMES


@pytest.mark.parametrize(
    ("conditions", "match"),
    [
        (("not json",), "is not JSON"),
        (("[1]",), "not an object"),
        (('{"weight":"70"}',), "unknown attribute"),
        (('{"sex":"=1+1"}',), "not safe in a table"),
        (('{"sex":"F","findings":{"=HYPERLINK(1)":1}}',), "not safe as a column"),
        (('{"findings":{"width":1}}',), "not safe as a column"),
        (('{"findings":{"mass":2}}',), "neither 0 nor 1"),
        (('{"findings":{"mass":true}}',), "neither 0 nor 1"),
        (('{"findings":{"mass":1}}', '{"findings":{"edema":1}}'), "in different rows"),
        (('{"findings":{"mass":1}}', ""), "is not JSON"),
    ],
)
def test_conditions_that_sample_would_not_write_are_refused(
    tmp_path: Path, conditions: tuple[str, ...], match: str
) -> None:
    with pytest.raises(DataError, match=match) as caught:
        release_with(tmp_path, conditions)
    assert caught.value.exit_code == 3
    assert not (tmp_path / "release").exists()


@pytest.mark.parametrize(
    "change",
    [lambda table: table.drop(columns="condition"), lambda table: table.assign(condition=CONDITIONS[0])],
)
def test_an_audit_of_other_conditions_is_refused(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame]
) -> None:
    with pytest.raises(TamperedError):
        release_with(tmp_path, CONDITIONS, change_table=change)


@pytest.mark.parametrize(("name", "value"), [("mass", 2), ("sex", "=1+1")])
def test_verify_refuses_values_no_release_has(
    tmp_path: Path, name: str, value: Any, conditioned: Path
) -> None:
    release = release_with(tmp_path, CONDITIONS)
    rows = read_rows(release, 10)
    rows[0][name] = value
    classes = {row["class"]: row["label"] for row in rows}
    write_tables(release, rows, classes, ConditionColumns(("sex", "age_band"), tuple(COLUMN_NAMES[2:])))
    make_sums_right(release)
    with pytest.raises(TamperedError, match=r"metadata\.parquet"):
        verify_release(release)


def test_columns_follow_those_of_every_release() -> None:
    found = columns_of_schema([*COLUMNS, "sex", "view", "mass"], COLUMNS)
    assert found == ConditionColumns(("sex", "view"), ("mass",))
    assert columns_of_schema(list(COLUMNS), COLUMNS).names == ()
