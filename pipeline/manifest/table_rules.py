"""Rules for tables: files, matching of rows and scans, and treatment of several rows of one scan."""

from __future__ import annotations

import codecs
import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from pipeline.manifest.rules import Column, PathText, Pattern, Rule

_ENCODINGS = re.compile(
    r"ascii|utf-(8|16|32)(-[bl]e)?|iso8859-\d+|cp\d+|koi8-[rut]|gb2312|gbk|gb18030|big5|shift_jis|euc_(jp|kr)"
    r"|mac-roman"
)


def _known_encoding(name: str) -> str:
    try:
        found = codecs.lookup(name).name
    except (LookupError, ValueError) as error:
        raise ValueError("not a known text encoding") from error
    if not _ENCODINGS.fullmatch(found):
        raise ValueError("not a character set")
    return name


Match = Literal["path", "name", "stem"]
Prefixes = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Field(max_length=8)]


class TableFile(Rule):
    """Table with a header: CSV, gzipped CSV (`.gz`) or Parquet (`.parquet`)."""

    path: PathText | Annotated[tuple[PathText, ...], Field(min_length=1, max_length=64)] = Field(
        description="File, or several files with the same columns; the ending of the name sets the format."
    )
    encoding: Annotated[str, Field(max_length=32), AfterValidator(_known_encoding)] = Field(
        "utf-8", description="Character set of a CSV table, such as utf-8, latin-1 or cp1252."
    )
    delimiter: Annotated[str, Field(min_length=1, max_length=1, pattern=r'^[^"\r\n\x00]$')] = Field(
        ",", description="Delimiter of the cells of a CSV table."
    )
    repeated: Literal["refuse", "agree", "majority", "any"] = Field(
        "refuse",
        description="Treatment of several rows of one scan: report an error, require that they agree, use "
        "the majority for each label cell, or take a finding as present if any row has it. Scans whose rows "
        "disagree are refused.",
    )
    strip_prefix: Prefixes = Field(
        (), description="Prefixes to remove from the file column, such as the name of the data set's folder."
    )

    @property
    def paths(self) -> tuple[str, ...]:
        """Files, in order."""
        return (self.path,) if isinstance(self.path, str) else self.path


class Join(TableFile):
    """Columns from another table, matched by file name or by other keys."""

    file_column: Column | None = Field(
        None,
        description="Column of this table with the file, as in the first table; default `file` without "
        "`keys`.",
    )
    keys: dict[Column, Column] | None = Field(
        None, min_length=1, max_length=8, description="Column of this table -> column of the tables before."
    )
    columns: dict[Column, Column] | Annotated[tuple[Column, ...], Field(min_length=1)] = Field(
        min_length=1, description="New column name -> column of this table, or a list of columns to add."
    )

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.keys and (self.file_column or self.strip_prefix):
            raise ValueError("give keys, or file_column with strip_prefix, not both")
        return self

    def new_columns(self) -> dict[str, str]:
        """Return new column name -> column of this table."""
        return self.columns if isinstance(self.columns, dict) else {column: column for column in self.columns}


class TableRule(TableFile):
    """Table with one row per scan."""

    file_column: Column = Field("file", description="Column with the file.")
    match: Match = Field(
        "path",
        description="Form of the file column: path relative to the source, file name, or file name without "
        "its ending. A row that matches several files is refused.",
    )
    pattern: Pattern | None = Field(
        None,
        description="Regular expression searched in the file column and in the path of a file; their first "
        "groups must be equal. Use it instead of `match` if the paths in the table are not those of the "
        "files.",
    )
    joins: tuple[Join, ...] = Field((), max_length=8, description="Tables that add columns, in order.")

    @property
    def by_path(self) -> bool:
        """Whether a row identifies its file by the path relative to the source."""
        return self.match == "path" and self.pattern is None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.pattern is not None and self.match != "path":
            raise ValueError("give match or pattern, not both")
        return self

    @model_validator(mode="after")
    def _distinct_columns(self) -> Self:
        names = [name for join in self.joins for name in join.new_columns()]
        if len(set(names)) != len(names):
            raise ValueError("joins: two tables add a column with the same name")
        return self
