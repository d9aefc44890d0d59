"""The rules on labels, findings and the parts of published splits."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.manifest.rules import Column, Name, PathText, Pattern, Rule, TableName
from pipeline.manifest.table_rules import Match

LIST = "list"
"""Separator that stands for a cell in Python's notation of a list, `['a', 'b']`."""

_CellTexts = Annotated[tuple[Annotated[str, Field(max_length=100)], ...], Field(max_length=32)]


class CellRule(Rule):
    """What the cells of finding columns say."""

    present: _CellTexts = Field(("1", "1.0"), min_length=1, description="The finding is there.")
    absent: _CellTexts = Field(("0", "0.0", ""), description="It is not, or is not mentioned.")
    uncertain: _CellTexts = Field(("-1", "-1.0"), description="It may be.")

    @model_validator(mode="after")
    def _apart(self) -> Self:
        every = [*self.present, *self.absent, *self.uncertain]
        if len(set(every)) != len(every):
            raise ValueError("a value stands twice")
        return self


class LabelRule(Rule):
    """Where the label of a scan stands; exactly one of `column`, `columns`, `folder`, `pattern`, `value`."""

    column: Column | None = Field(None, description="Column of the table that holds the label.")
    columns: dict[Column, TableName] | None = Field(
        None, min_length=1, max_length=1000, description="Columns with one finding each -> its name."
    )
    folder: int | None = Field(
        None, description="Which folder of the relative path is the label: 0 the first, -1 the last."
    )
    pattern: Pattern | None = Field(
        None, description="Regular expression searched in the relative path; its first group is the label."
    )
    value: TableName | None = Field(None, description="The class of every scan of the source.")
    values: dict[str, TableName] | None = Field(
        None, description="Found value -> class or finding; a scan with a value not listed here is refused."
    )
    separator: Annotated[str, Field(min_length=1, max_length=8)] | None = Field(
        None,
        description="What stands between several findings in one cell of `column`, such as `|`; `list` for "
        "cells like ['a', 'b'].",
    )
    unlisted: Literal["refuse", "ignore"] = Field(
        "refuse",
        description="A scan with a finding not listed in `values` is refused, or that finding is ignored.",
    )
    cells: CellRule = Field(default_factory=CellRule, description="What the cells of `columns` say.")
    uncertain: Literal["absent", "present", "refuse", "keep"] = Field(
        "keep",
        description="An uncertain finding counts as absent or present, the scan is refused, or it is kept as "
        "uncertain and makes no class.",
    )
    none: TableName | None = Field(
        None,
        description="Class of a scan without any finding. Where a column or value is mapped to it, only a "
        "scan that says so gets it.",
    )
    several: Literal["first", "refuse"] = Field(
        "first",
        description="A scan with several findings gets the first of them in the order of `priority`, "
        "or is refused.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        places = (self.column, self.columns, self.folder, self.pattern, self.value)
        if sum(place is not None for place in places) != 1:
            raise ValueError("give exactly one of column, columns, folder, pattern, value")
        if self.separator is not None and (self.column is None or self.values is None):
            raise ValueError("separator needs `column` and `values`")
        if self.values is not None and (self.columns is not None or self.value is not None):
            raise ValueError("values belongs to column, folder or pattern")
        given = self.model_fields_set
        for name in ("cells", "uncertain"):
            if name in given and self.columns is None:
                raise ValueError(f"{name} belongs to columns")
        for name in ("none", "several"):
            if name in given and not self.multiple:
                raise ValueError(f"{name} belongs to columns, or to column with separator")
        if "unlisted" in given and self.separator is None:
            raise ValueError("unlisted belongs to separator")
        if self.multiple and not self.findings:
            raise ValueError("names no finding")
        return self

    @property
    def multiple(self) -> bool:
        """Whether a scan may have several findings."""
        return self.columns is not None or self.separator is not None

    @property
    def findings(self) -> tuple[str, ...]:
        """The names of the findings, sorted; empty where a scan has one label."""
        if not self.multiple:
            return ()
        named = (self.columns or self.values or {}).values()
        return tuple(sorted({name for name in named if name != self.none}))

    @property
    def table_columns(self) -> tuple[str, ...]:
        """The columns of the table that hold the label."""
        return tuple(self.columns) if self.columns else ((self.column,) if self.column else ())


class PublishedRule(Rule):
    """Where the part of a published split stands; exactly one of the places."""

    column: Column | None = Field(None, description="Column of the table.")
    lists: dict[Name, PathText] | None = Field(
        None, min_length=1, max_length=16, description="Part -> text file with one file name a line."
    )
    match: Match = Field("path", description="What the lists hold, as for a table.")
    folder: int | None = Field(None, description="Which folder of the relative path is the part.")
    pattern: Pattern | None = Field(
        None, description="Regular expression searched in the relative path; its first group is the part."
    )
    value: Name | None = Field(None, description="The part of every scan of the source.")
    values: dict[str, Name] = Field(
        default_factory=dict, description="Found value -> name of the part; others stay as found."
    )

    @model_validator(mode="after")
    def _one(self) -> Self:
        places = (self.column, self.lists, self.folder, self.pattern, self.value)
        if sum(place is not None for place in places) != 1:
            raise ValueError("give exactly one of column, lists, folder, pattern, value")
        if "match" in self.model_fields_set and self.lists is None:
            raise ValueError("match belongs to lists")
        if self.values and (self.lists is not None or self.value is not None):
            raise ValueError("values belongs to column, folder or pattern")
        return self
