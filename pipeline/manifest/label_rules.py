"""Rules for labels, findings and the parts of published splits."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.manifest.rules import Column, Name, PathText, Pattern, Rule, TableName
from pipeline.manifest.table_rules import Match

LIST = "list"
"""Separator for cells in Python's notation of a list, `['a', 'b']`."""

_CellTexts = Annotated[tuple[Annotated[str, Field(max_length=100)], ...], Field(max_length=32)]


class CellRule(Rule):
    """Meaning of the cells of finding columns."""

    present: _CellTexts = Field(
        ("1", "1.0"), min_length=1, description="Values that mean that the finding is present."
    )
    absent: _CellTexts = Field(
        ("0", "0.0", ""), description="Values that mean that the finding is absent or not mentioned."
    )
    uncertain: _CellTexts = Field(
        ("-1", "-1.0"), description="Values that mean that the finding is uncertain."
    )

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        values = [*self.present, *self.absent, *self.uncertain]
        if len(set(values)) != len(values):
            raise ValueError("a value is listed twice")
        return self


class LabelRule(Rule):
    """Source of a scan's label; exactly one of `column`, `columns`, `folder`, `pattern`, `value`."""

    column: Column | None = Field(None, description="Column of the table with the label.")
    columns: dict[Column, TableName] | None = Field(
        None, min_length=1, max_length=1000, description="Column with one finding -> name of the finding."
    )
    folder: int | None = Field(
        None, description="Position of the label among the folders of the relative path: 0 first, -1 last."
    )
    pattern: Pattern | None = Field(
        None, description="Regular expression searched in the relative path; its first group is the label."
    )
    value: TableName | None = Field(None, description="Class of every scan of the source.")
    values: dict[str, TableName] | None = Field(
        None, description="Value in the source -> class or finding; a scan with an unlisted value is refused."
    )
    separator: Annotated[str, Field(min_length=1, max_length=8)] | None = Field(
        None,
        description="Separator of several findings in one cell of `column`, such as `|`; `list` for cells "
        "like ['a', 'b'].",
    )
    unlisted: Literal["refuse", "ignore"] = Field(
        "refuse",
        description="Treatment of findings that are not listed in `values`: refuse the scan, or ignore the "
        "finding.",
    )
    cells: CellRule = Field(default_factory=CellRule, description="Meaning of the cells of `columns`.")
    uncertain: Literal["absent", "present", "refuse", "keep"] = Field(
        "keep",
        description="Treatment of uncertain findings: count them as absent or present, refuse the scan, or "
        "keep them as uncertain, without becoming a class.",
    )
    none: TableName | None = Field(
        None,
        description="Class of a scan without findings. If a column or value is mapped to it, only scans with "
        "that column or value get it.",
    )
    several: Literal["first", "refuse"] = Field(
        "first",
        description="Treatment of scans with several findings: use the first in the order of `priority` as "
        "the class, or refuse the scan.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        places = (self.column, self.columns, self.folder, self.pattern, self.value)
        if sum(place is not None for place in places) != 1:
            raise ValueError("give exactly one of column, columns, folder, pattern, value")
        if self.separator is not None and (self.column is None or self.values is None):
            raise ValueError("separator requires column and values")
        if self.values is not None and (self.columns is not None or self.value is not None):
            raise ValueError("values requires column, folder or pattern")
        given = self.model_fields_set
        for name in ("cells", "uncertain"):
            if name in given and self.columns is None:
                raise ValueError(f"{name} requires columns")
        for name in ("none", "several"):
            if name in given and not self.multiple:
                raise ValueError(f"{name} requires columns, or column with separator")
        if "unlisted" in given and self.separator is None:
            raise ValueError("unlisted requires separator")
        if self.multiple and not self.findings:
            raise ValueError("the label has no finding")
        return self

    @property
    def multiple(self) -> bool:
        """Whether a scan may have several findings."""
        return self.columns is not None or self.separator is not None

    @property
    def findings(self) -> tuple[str, ...]:
        """Names of the findings, sorted; empty if each scan has one label."""
        if not self.multiple:
            return ()
        named = (self.columns or self.values or {}).values()
        return tuple(sorted({name for name in named if name != self.none}))

    @property
    def table_columns(self) -> tuple[str, ...]:
        """Columns of the table with the label."""
        return tuple(self.columns) if self.columns else ((self.column,) if self.column else ())


class PublishedRule(Rule):
    """Source of a scan's part in a published split; exactly one of `column` to `value`."""

    column: Column | None = Field(None, description="Column of the table.")
    lists: dict[Name, PathText] | None = Field(
        None, min_length=1, max_length=16, description="Part -> text file with one file name per line."
    )
    match: Match = Field("path", description="Form of the file names in the lists, as for a table.")
    folder: int | None = Field(
        None, description="Position of the part among the folders of the relative path."
    )
    pattern: Pattern | None = Field(
        None, description="Regular expression searched in the relative path; its first group is the part."
    )
    value: Name | None = Field(None, description="Part of every scan of the source.")
    values: dict[str, Name] = Field(
        default_factory=dict,
        description="Value in the source -> name of the part; other values are not changed.",
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        places = (self.column, self.lists, self.folder, self.pattern, self.value)
        if sum(place is not None for place in places) != 1:
            raise ValueError("give exactly one of column, lists, folder, pattern, value")
        if "match" in self.model_fields_set and self.lists is None:
            raise ValueError("match requires lists")
        if self.values and (self.lists is not None or self.value is not None):
            raise ValueError("values requires column, folder or pattern")
        return self
