"""Labels and findings: from cells to one class and the states of all findings, or a reason why not."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline.manifest.label_rules import LabelRule, PublishedRule
from pipeline.manifest.table_rules import Join, TableRule
from pipeline.scan_attributes import number_of, years
from pipeline.sources.tables.labels import Labeller, list_items
from pipeline.sources.tables.rows import ScanRow
from pipeline.sources.tables.tables import CONFLICT, SEVERAL, ScanTable

COLUMNS = {"None": "healthy", "E": "edema", "F": "fracture"}
RANKED = ("fracture", "edema")


def row(tmp_path: Path, cells: dict[str, str] | None, name: str = "a/b.png") -> ScanRow:
    """Return a row with these cells, None for a file that the table does not know."""
    (tmp_path / "t.csv").write_text("file,x\n")
    table = ScanTable(tmp_path / "t.csv", ("file",), ("x",), field="table")
    if cells is not None:
        table.columns = tuple(cells)
        table._places = {column: place for place, column in enumerate(cells)}
        table.rows[name] = tuple(cells.values())
    return ScanRow(table, name, name)


def verdict(tmp_path: Path, rule: dict[str, Any], *cells: str) -> tuple[str, bytes, str]:
    labeller = Labeller(LabelRule.model_validate(rule), RANKED)
    return labeller(row(tmp_path, dict(zip(rule.get("columns", ["L"]), cells, strict=True))))


@pytest.mark.parametrize(
    ("cells", "label", "findings", "refusal"),
    [
        (("1", "", "0"), "healthy", b"\0\0", ""),
        (("", "1.0", "0.0"), "edema", b"\1\0", ""),
        (("", "1", "1"), "fracture", b"\1\1", ""),  # the order of priority, not of the columns
        (("", "1", "-1"), "edema", b"\1\2", ""),
        (("", "-1", ""), "", b"\2\0", "label uncertain"),
        (("", "", ""), "", b"\0\0", "no label"),
        (("", "yes", ""), "", b"", "label not listed in the manifest"),
        (("", CONFLICT, ""), "", b"", "rows of the table disagree"),
        (("", f"0{SEVERAL}1", ""), "edema", b"\1\0", ""),
        (("", f"0{SEVERAL}-1", "1"), "fracture", b"\2\1", ""),
        (("1", "-1", ""), "", b"\2\0", "label uncertain"),
    ],
)
def test_a_column_a_finding(
    tmp_path: Path, cells: tuple[str, ...], label: str, findings: bytes, refusal: str
) -> None:
    rule = {"columns": COLUMNS, "none": "healthy"}
    assert verdict(tmp_path, rule, *cells) == (label, findings, refusal)


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("absent", ("healthy", b"\0\0", "")),
        ("present", ("edema", b"\1\0", "")),
        ("refuse", ("", b"", "label uncertain")),
        ("keep", ("", b"\2\0", "label uncertain")),
    ],
)
def test_the_policy_on_uncertain_findings(
    tmp_path: Path, policy: str, expected: tuple[str, bytes, str]
) -> None:
    rule = {"columns": {"E": "edema", "F": "fracture"}, "none": "healthy", "uncertain": policy}
    assert verdict(tmp_path, rule, "-1", "0") == expected


def test_without_a_class_for_none_and_with_several_refused(tmp_path: Path) -> None:
    rule: dict[str, Any] = {"columns": {"E": "edema", "F": "fracture"}}
    assert verdict(tmp_path, rule, "0", "0")[2] == "no label"
    assert verdict(tmp_path, {**rule, "several": "refuse"}, "1", "1") == ("", b"\1\1", "several findings")
    assert verdict(tmp_path, {**rule, "several": "refuse"}, "1", "0")[0] == "edema"


def test_cells_may_say_it_in_other_words(tmp_path: Path) -> None:
    cells = {"present": ["YES"], "absent": ["NO"], "uncertain": ["MAYBE"]}
    rule = {"columns": {"E": "edema", "F": "fracture"}, "cells": cells}
    assert verdict(tmp_path, rule, "YES", "MAYBE") == ("edema", b"\1\2", "")
    assert verdict(tmp_path, rule, "YES", "")[2] == "label not listed in the manifest"


VALUES = {"No Finding": "healthy", "Edema": "edema", "Oedema": "edema", "Fracture": "fracture"}


@pytest.mark.parametrize(
    ("cell", "label", "findings", "refusal"),
    [
        ("No Finding", "healthy", b"\0\0", ""),
        ("Edema|Fracture", "fracture", b"\1\1", ""),
        ("Oedema | Edema", "edema", b"\1\0", ""),
        ("Edema|Other", "", b"", "label not listed in the manifest"),
        ("", "", b"", "no label"),
        ("||", "", b"", "no label"),
        (f"Edema{SEVERAL}Fracture", "fracture", b"\1\1", ""),
        ("=1+1", "", b"", "label not listed in the manifest"),
    ],
)
def test_several_findings_in_one_cell(
    tmp_path: Path, cell: str, label: str, findings: bytes, refusal: str
) -> None:
    rule = {"column": "L", "separator": "|", "values": VALUES, "none": "healthy"}
    assert verdict(tmp_path, rule, cell) == (label, findings, refusal)


def test_ignored_findings_still_make_no_healthy_scan(tmp_path: Path) -> None:
    rule = {"column": "L", "separator": "list", "values": VALUES, "none": "healthy", "unlisted": "ignore"}
    assert verdict(tmp_path, rule, "['Scoliosis']")[2] == "none of the scan's findings is a class"
    assert verdict(tmp_path, rule, "['Scoliosis', 'Edema']") == ("edema", b"\1\0", "")
    assert verdict(tmp_path, rule, "['No Finding', 'unchanged']") == ("healthy", b"\0\0", "")


@pytest.mark.parametrize(
    ("cell", "items"),
    [
        ("['a', \"b's\", 'c']", ["a", "b's", "c"]),
        ("[]", []),
        ("[ 'a' , ]", ["a"]),
        (r"['it\'s']", ["it's"]),
        ("['a' 'b']", None),
        ("[a]", None),
        ("['a'", None),
        ("__import__('os').system('x')", None),
        ("[" * 5000, None),
        ("['" + "\\'" * 4000, None),
        ("['a'," * 1500, None),
    ],
)
def test_a_list_is_read_and_never_evaluated(cell: str, items: list[str] | None) -> None:
    assert list_items(cell) == items


def test_one_label_from_column_folder_pattern_or_value(tmp_path: Path) -> None:
    found = row(tmp_path, {"L": "NORMAL"}, "train/PNEUMONIA/s_1.png")
    for rule, expected in (
        ({"column": "L", "values": {"NORMAL": "healthy"}}, ("healthy", "")),
        ({"column": "L", "values": {"other": "healthy"}}, ("", "label not listed in the manifest")),
        ({"folder": -1}, ("PNEUMONIA", "")),
        ({"folder": 5}, ("", "no label")),
        ({"pattern": "_([01])[.]png$", "values": {"1": "sick"}}, ("sick", "")),
        ({"pattern": "_(x)?1"}, ("", "no label")),
        ({"value": "healthy"}, ("healthy", "")),
    ):
        label, findings, refusal = Labeller(LabelRule.model_validate(rule), ())(found)
        assert (label, refusal) == expected
        assert findings == b""


def test_equal_findings_share_one_object(tmp_path: Path) -> None:
    rule = {"columns": {"E": "edema", "F": "fracture"}}
    labeller = Labeller(LabelRule.model_validate(rule), RANKED)
    first, second = (labeller(row(tmp_path, {"E": "1", "F": "0"}))[1] for _ in range(2))
    assert first is second


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ({}, "exactly one"),
        ({"column": "a", "folder": 0}, "exactly one"),
        ({"column": "a", "separator": "|"}, "separator requires"),
        ({"columns": {"a": "b"}, "values": {"c": "d"}}, "values requires"),
        ({"column": "a", "uncertain": "keep"}, "uncertain requires columns"),
        ({"column": "a", "none": "healthy"}, "none requires"),
        ({"folder": 0, "several": "first"}, "several requires"),
        ({"column": "a", "unlisted": "ignore"}, "unlisted requires"),
        ({"columns": {"a": "healthy"}, "none": "healthy"}, "the label has no finding"),
        ({"columns": {"a": "b"}, "cells": {"present": ["0"]}}, "listed twice"),
        ({"columns": {"a": "=cmd()"}}, "pattern"),
        ({"value": "../up"}, "pattern"),
        ({"pattern": "abc"}, "one group"),
        ({"pattern": "(abc"}, "regular expression"),
    ],
)
def test_a_label_rule_that_says_nothing_or_too_much_is_refused(rule: dict[str, Any], problem: str) -> None:
    with pytest.raises(ValidationError, match=problem):
        LabelRule.model_validate(rule)


@pytest.mark.parametrize(
    ("kind", "rule", "problem"),
    [
        (PublishedRule, {"column": "a", "value": "b"}, "exactly one"),
        (PublishedRule, {"column": "a", "match": "name"}, "match requires"),
        (PublishedRule, {"value": "a", "values": {"b": "c"}}, "values requires"),
        (TableRule, {"path": "t.csv", "encoding": "rot13"}, "character set"),
        (TableRule, {"path": "t.csv", "encoding": "unicode_escape"}, "character set"),
        (TableRule, {"path": "t.csv", "encoding": "no-such"}, "text encoding"),
        (TableRule, {"path": "t.csv", "delimiter": ";;"}, "at most 1"),
        (TableRule, {"path": "t.csv", "delimiter": '"'}, "pattern"),
        (
            TableRule,
            {"path": "t", "joins": [{"path": "u", "columns": ["a"]}] * 2},
            "add a column with the same name",
        ),
        (Join, {"path": "t", "keys": {"a": "b"}, "file_column": "c", "columns": ["d"]}, "give keys, or"),
    ],
)
def test_a_table_or_split_rule_that_contradicts_itself_is_refused(
    kind: type[TableRule], rule: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ValidationError, match=problem):
        kind.model_validate(rule)


def test_ages_are_read_as_numbers_or_as_dicom_has_them() -> None:
    found = [years(text) for text in ("58", "058Y", "006M", "58.5", "", "old", "nan", "inf", "58Y")]
    assert found == [58, 58, 0.5, 58.5, None, None, None, None, 58]
    assert number_of("", 1.4) == 1.4
