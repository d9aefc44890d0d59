"""The rules on tables: which file, how its rows meet the scans, what several rows of one scan mean."""

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
        raise ValueError("not the name of a text encoding") from error
    if not _ENCODINGS.fullmatch(found):
        raise ValueError("not the name of a character set")
    return name


Match = Literal["path", "name", "stem"]
Prefixes = Annotated[tuple[Annotated[str, Field(min_length=1, max_length=200)], ...], Field(max_length=8)]


class TableFile(Rule):
    """A table with a header: CSV, gzipped CSV (`.gz`) or Parquet (`.parquet`)."""

    path: PathText | Annotated[tuple[PathText, ...], Field(min_length=1, max_length=64)] = Field(
        description="The file, or several with the same columns; their names tell the format."
    )
    encoding: Annotated[str, Field(max_length=32), AfterValidator(_known_encoding)] = Field(
        "utf-8", description="Character set of a CSV table, such as utf-8, latin-1 or cp1252."
    )
    delimiter: Annotated[str, Field(min_length=1, max_length=1, pattern=r'^[^"\r\n\x00]$')] = Field(
        ",", description="What stands between the cells of a CSV table."
    )
    repeated: Literal["refuse", "agree", "majority", "any"] = Field(
        "refuse",
        description="Several rows of one scan: an error, or they must agree, or most of them decide each "
        "label cell, or a finding is present where any row has it. What disagrees is refused, scan by scan.",
    )
    strip_prefix: Prefixes = Field(
        (), description="Taken off the file column where it starts so, such as the name of the set's folder."
    )

    @property
    def paths(self) -> tuple[str, ...]:
        """The files in order."""
        return (self.path,) if isinstance(self.path, str) else self.path


class Join(TableFile):
    """Columns taken over from another table, matched by file name or by other keys."""

    file_column: Column | None = Field(
        None, description="Its column with the file, as the first table has it; `file` without `keys`."
    )
    keys: dict[Column, Column] | None = Field(
        None, min_length=1, max_length=8, description="Column of this table -> column that we have already."
    )
    columns: dict[Column, Column] | Annotated[tuple[Column, ...], Field(min_length=1)] = Field(
        min_length=1, description="New column name -> column of this table, or a list of names that stay."
    )

    @model_validator(mode="after")
    def _one_key(self) -> Self:
        if self.keys and (self.file_column or self.strip_prefix):
            raise ValueError("give keys, or file_column with strip_prefix")
        return self

    def named(self) -> dict[str, str]:
        """Return new name -> column of this table."""
        return self.columns if isinstance(self.columns, dict) else {column: column for column in self.columns}


class TableRule(TableFile):
    """The table with one row a scan."""

    file_column: Column = Field("file", description="Column that names the file.")
    match: Match = Field(
        "path",
        description="What the file column holds: the path below the source, its last part, or that without "
        "its extension. A row that fits several files is refused.",
    )
    pattern: Pattern | None = Field(
        None,
        description="Regular expression searched in the file column and in a file's path; their first groups "
        "must be equal. For files that lie elsewhere than the table says; instead of `match`.",
    )
    joins: tuple[Join, ...] = Field((), max_length=8, description="Other tables that add columns, in order.")

    @property
    def by_path(self) -> bool:
        """Whether a row names its file's whole path below the source."""
        return self.match == "path" and self.pattern is None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.pattern is not None and self.match != "path":
            raise ValueError("give match or pattern")
        return self

    @model_validator(mode="after")
    def _new_columns(self) -> Self:
        names = [name for join in self.joins for name in join.named()]
        if len(set(names)) != len(names):
            raise ValueError("joins: two of them give the same column")
        return self
