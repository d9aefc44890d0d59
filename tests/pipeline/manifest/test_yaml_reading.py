"""What YAML reads otherwise than it is written is told by line with its remedy, wherever a text is wanted."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.errors import ManifestError
from pipeline.manifest import Manifest, load_manifest

GOOD = """name: small
sources:
  - kind: images
    path: scans
    table: {path: t.csv, joins: [{path: u.csv, columns: {more: theirs}}]}
    label: {column: label, values: {a: one, b: two}}
    select: {view: [PA]}
    published_splits: {own: {column: part, values: {x: train}}}
    attributes: {sex: sex, age: {column: [Age, age], values: {old: "80"}}}
"""
SERVER = """name: served
sources:
  - kind: dicomweb
    url: http://pacs/dicom-web
    query: {Modality: CR}
    label: {value: a}
"""


def loaded(folder: Path, old: str, new: str, text: str = GOOD) -> Manifest:
    assert old in text
    (folder / "m.yaml").write_text(text.replace(old, new), encoding="utf-8")
    return load_manifest(folder / "m.yaml")


@pytest.mark.parametrize(
    ("old", "new", "field", "line", "taken", "written"),
    [
        ("name: small", "name: small\nclasses: [no, yes]", "classes.0", 2, "a Boolean", "no"),
        ("name: small", "name: small\nclasses: [one, Off]", "classes.1", 2, "a Boolean", "Off"),
        ("name: small", "name: on", "name", 1, "a Boolean", "on"),
        ("name: small", "name: small\nlicense: 4.10", "license", 2, "a number", "4.10"),
        ("name: small", "name: small\ncitation: 2020-01-01", "citation", 2, "a date or time", "2020-01-01"),
        ("name: small", "name: small\naccess: 12:30", "access", 2, "a number", "12:30"),
        ("name: small", "name: small\ndescription: ~", "description", 2, "null", "~"),
        ("path: scans", "path: 0x1F", "sources.0.path", 4, "a number", "0x1F"),
        ("path: t.csv", "path: 1_000", "sources.0.table.path", 5, "a number", "1_000"),
        ("theirs", "null", "sources.0.table.joins.0.columns.more", 5, "null", "null"),
        ("a: one", "1: one", "sources.0.label.values.1", 6, "a number", "1"),
        ("a: one", "no: one", "sources.0.label.values.no", 6, "a Boolean", "no"),
        ("a: one", "1.0: one", "sources.0.label.values.1.0", 6, "a number", "1.0"),
        ("a: one", "~: one", "sources.0.label.values.~", 6, "null", "~"),
        ("a: one", "007: one", "sources.0.label.values.007", 6, "a number", "007"),
        ("a: one", "2020-01-01: one", "sources.0.label.values.2020-01-01", 6, "a date or time", "2020-01-01"),
        ("a: one", "a: yes", "sources.0.label.values.a", 6, "a Boolean", "yes"),
        ("column: label", "column: 3", "sources.0.label.column", 6, "a number", "3"),
        ("[PA]", "[PA, 1]", "sources.0.select.view.1", 7, "a number", "1"),
        ("x: train", "x: on", "sources.0.published_splits.own.values.x", 8, "a Boolean", "on"),
        ("sex: sex", "sex: 1", "sources.0.attributes.sex", 9, "a number", "1"),
        ("[Age, age]", "[Age, 7]", "sources.0.attributes.age.column.1", 9, "a number", "7"),
        ('"80"', "80", "sources.0.attributes.age.values.old", 9, "a number", "80"),
    ],
)
def test_what_yaml_reads_otherwise_is_told_with_line_value_and_quotes(
    tmp_path: Path, old: str, new: str, field: str, line: int, taken: str, written: str
) -> None:
    with pytest.raises(ManifestError) as caught:
        loaded(tmp_path, old, new)
    assert caught.value.field == field
    assert f"line {line}: YAML reads this as {taken}, but a text is required" in str(caught.value)
    assert f"(got '{written}')" in str(caught.value)
    assert f'Put it in quotes: "{written}".' in str(caught.value)


def test_quotes_are_the_remedy_that_they_are_said_to_be(tmp_path: Path) -> None:
    classes = loaded(tmp_path, "name: small", 'name: small\nclasses: ["no", "yes"]').classes
    assert classes == ("no", "yes")
    source = loaded(tmp_path, "a: one", '"007": one').sources[0]
    assert source.model_dump()["label"]["values"] == {"007": "one", "b": "two"}


def test_a_value_that_is_left_out_is_called_that(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"name: line 1: the value is empty"):
        loaded(tmp_path, "name: small", "name:")


@pytest.mark.parametrize(("old", "new"), [("[no, yes]", "[0, 1]"), ("[no, yes]", "[true, false]")])
def test_where_quotes_alone_would_not_do_that_is_said_at_once(tmp_path: Path, old: str, new: str) -> None:
    text = GOOD.replace("name: small", f"name: small\nclasses: {old}")
    with pytest.raises(ManifestError, match=r"classes\.0: table readers read '(0|true)' as a") as caught:
        loaded(tmp_path, old, new, text)
    assert "quotes" not in str(caught.value)


@pytest.mark.parametrize(
    ("wanted", "written"),
    [("PatientID: 007", "007"), ("StudyTime: 12:30", "12:30"), ("StudyDate: 2020-01-01", "2020-01-01")],
)
def test_a_filter_is_never_another_number_than_was_written(tmp_path: Path, wanted: str, written: str) -> None:
    with pytest.raises(ManifestError, match=r"sources\.0\.query\.") as caught:
        loaded(tmp_path, "Modality: CR", wanted, SERVER)
    assert f'Put it in quotes: "{written}".' in str(caught.value)


def test_a_secret_that_yaml_misreads_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(
        ManifestError, match=r"sources\.0\.token: the manifest must not contain a secret"
    ) as caught:
        loaded(tmp_path, "label:", "token: 31415926\n    label:", SERVER)
    assert "31415926" not in str(caught.value)
    with pytest.raises(ManifestError, match=r"sources\.0\.token: line 6: .*Put it in quotes\.") as caught:
        loaded(tmp_path, "label:", "token: 2031-05-26\n    label:", SERVER)
    assert "2031" not in str(caught.value)


def test_numbers_and_truth_values_stay_what_they_are_where_they_are_wanted(tmp_path: Path) -> None:
    served = loaded(tmp_path, "Modality: CR", "StudyDate: 20200101", SERVER)
    assert served.sources[0].model_dump()["query"] == {"StudyDate": "20200101"}
    text = """
name: counted
priority: [two, one]
sources:
  - kind: medmnist
    path: a.npz
    labels: {0: one, 1: two}
    multi_label: yes
    sizes: {28: {url: "http://x/a.npz", md5: "00000000000000000000000000000000"}}
"""
    (tmp_path / "m.yaml").write_text(text)
    source = load_manifest(tmp_path / "m.yaml").sources[0].model_dump()
    assert source["labels"] == {"0": "one", "1": "two"}
    assert source["multi_label"] is True
    text = "name: p\nsources:\n  - {kind: phantom, settings: {num_patients: 1_000, seed: 0x10}}\n"
    (tmp_path / "m.yaml").write_text(text)
    made = load_manifest(tmp_path / "m.yaml").sources[0].model_dump()["settings"]
    assert (made["num_patients"], made["seed"]) == (1000, 16)


def test_a_wrong_item_is_told_and_not_that_its_list_is_short(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"sources\.0\.colour: Input should be 'refuse' or 'grey'"):
        loaded(tmp_path, "path: scans", "path: scans\n    colour: green")
    with pytest.raises(ManifestError, match=r"^sources: Tuple should have at least 1 item"):
        loaded(tmp_path, GOOD[GOOD.index("sources:") :], "sources: []\n")
