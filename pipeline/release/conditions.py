"""Columns of a release for the conditions that were requested besides the class."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.candidates import CONDITION_COLUMN
from pipeline.artifacts.cohort import ATTRIBUTES
from pipeline.artifacts.conditions import FINDINGS, MAX_FIELDS, RESERVED_NAMES
from pipeline.errors import DataError
from pipeline.release.layout import is_safe_name
from pipeline.scan_attributes import SCAN_ATTRIBUTES

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

MAX_TEXT = 65_536


@dataclass(frozen=True)
class ConditionColumns:
    """The condition columns of a release, in order; none if the generator was conditioned on classes alone.

    Attributes:
        attributes: names from `SCAN_ATTRIBUTES`: text columns, empty where not requested.
        findings: names of findings: 1 present, 0 absent, empty where not requested.
    """

    attributes: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All columns in order."""
        return (*self.attributes, *self.findings)

    @property
    def meanings(self) -> dict[str, str]:
        """Meaning of each column, in words."""
        told = {name: SCAN_ATTRIBUTES[name].meaning for name in self.attributes}
        return told | {
            name: f"1: the image was generated to show {name}; 0: not to show it." for name in self.findings
        }

    def fields(self) -> list[pa.Field]:
        """Return the Parquet fields."""
        import pyarrow as pa

        return [pa.field(name, pa.string()) for name in self.attributes] + [
            pa.field(name, pa.int8()) for name in self.findings
        ]

    def problem(self) -> str:
        """Return the problem with the names, which become columns and text; empty if there is none."""
        if list(self.attributes) != [name for name in ATTRIBUTES if name in self.attributes]:
            return "names an unknown attribute"
        if len(self.names) > MAX_FIELDS or len(set(self.findings)) != len(self.findings):
            return "names too many findings, or one twice"
        if any(name in RESERVED_NAMES or not is_safe_name(name) for name in self.findings):
            return "has a finding whose name is not safe as a column"
        return ""

    def value_problem(self, row: dict[str, Any]) -> str:
        """Return the problem with the values of a row; empty if there is none."""
        for name in self.attributes:
            value = row[name]
            if value is not None and not (isinstance(value, str) and is_safe_name(value.removesuffix("+"))):
                return f"has a value of {name} that is not safe in a table"
        states = [row[name] for name in self.findings if row[name] is not None]
        if any(type(state) is not int or state not in (0, 1) for state in states):
            return "has a finding that is neither 0 nor 1"
        return ""


NO_CONDITIONS = ConditionColumns()


def columns_of_schema(names: list[str], base: tuple[str, ...]) -> ConditionColumns:
    """Return the condition columns of a table, which come after the columns of every release."""
    extra = names[len(base) :]
    attributes = tuple(name for name in extra if name in ATTRIBUTES)
    return ConditionColumns(attributes, tuple(name for name in extra if name not in ATTRIBUTES))


def read_conditions(table: pd.DataFrame) -> tuple[ConditionColumns, list[dict[str, Any]]]:
    """Return the columns and, for each row of the candidate table, the values by column.

    Raises:
        DataError: the `condition` column is not what `sample` writes.
    """
    texts: list[Any] = list(table.get(CONDITION_COLUMN, ()))
    if not all(isinstance(text, str) for text in texts):
        raise _wrong("holds something that is not text")
    if not any(texts):
        return NO_CONDITIONS, [{} for _ in range(len(table))]
    columns: ConditionColumns | None = None
    rows: list[dict[str, Any]] = []
    # There are few combinations and many rows: each text is parsed once.
    read: dict[str, tuple[ConditionColumns, dict[str, Any]]] = {}
    for text in texts:
        if text not in read:
            read[text] = _parse(text)
        found, values = read[text]
        if columns is not None and found != columns:
            raise _wrong("names different conditions in different rows")
        columns = found
        rows.append(values)
    return columns or NO_CONDITIONS, rows


def _parse(text: str) -> tuple[ConditionColumns, dict[str, Any]]:
    if len(text) > MAX_TEXT:
        raise _wrong("holds a text that is too long")
    try:
        body = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise _wrong("is not JSON") from error
    findings = body.pop(FINDINGS, {}) if isinstance(body, dict) else None
    if not isinstance(findings, dict):
        raise _wrong("is not an object of attributes and findings")
    columns = ConditionColumns(tuple(body), tuple(findings))
    values = {**body, **findings}
    problem = columns.problem() or columns.value_problem(values)
    if problem:
        raise _wrong(problem)
    return columns, values


def _wrong(problem: str) -> DataError:
    return DataError(problem, field=CONDITION_COLUMN, remedy="Sample again.")
