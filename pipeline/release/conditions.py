"""Columns of a release for what each image was asked to show beside its class."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.artifacts.candidates import CONDITION_COLUMN
from pipeline.artifacts.cohort import ATTRIBUTES
from pipeline.artifacts.conditions import FINDINGS, MAX_FIELDS, RESERVED_NAMES
from pipeline.errors import DataError
from pipeline.release.layout import is_safe_name

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

MAX_TEXT = 65_536
_MEANINGS = {
    "sex": "Sex that the image was generated for: F, M or O.",
    "age_band": "Age in years, a band of ten, that the image was generated for.",
    "view": "View that the image was generated for.",
}


@dataclass(frozen=True)
class ConditionColumns:
    """The condition columns of a release, in order; none where the generator knew only classes.

    Attributes:
        attributes: some of sex, age_band, view: text columns, empty where not asked for.
        findings: names of findings: 1 present, 0 absent, empty where not asked for.
    """

    attributes: tuple[str, ...] = ()
    findings: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All columns in order."""
        return (*self.attributes, *self.findings)

    @property
    def meanings(self) -> dict[str, str]:
        """What each column says, in words."""
        told = {name: _MEANINGS[name] for name in self.attributes}
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
        """Return what is wrong with the names, empty if nothing is; they become columns and text."""
        if list(self.attributes) != [name for name in ATTRIBUTES if name in self.attributes]:
            return "names an unknown attribute"
        if len(self.names) > MAX_FIELDS or len(set(self.findings)) != len(self.findings):
            return "names too many findings, or one twice"
        if any(name in RESERVED_NAMES or not is_safe_name(name) for name in self.findings):
            return "has a finding whose name is not safe as a column"
        return ""

    def value_problem(self, row: dict[str, Any]) -> str:
        """Return what is wrong with the values of a row, empty if nothing is."""
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
    """Return the condition columns of a table, which follow the columns that every release has."""
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
    # Few combinations, many rows: each text is read once.
    read: dict[str, tuple[ConditionColumns, dict[str, Any]]] = {}
    for text in texts:
        if text not in read:
            read[text] = _parse(text)
        found, values = read[text]
        if columns is not None and found != columns:
            raise _wrong("names other conditions from row to row")
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
