"""Tables beside the scans: chosen columns by key, joined, with several rows of one scan brought together."""

from __future__ import annotations

import itertools
import sys
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Literal

from pipeline.errors import DataError
from pipeline.sources.tables.table_files import MAX_ROWS, read_table

CONFLICT = "\0"
"""Cell of a column in which the rows of one scan disagree; no table can hold it."""

SEVERAL = "\x1f"
"""What stands between the cells of several rows that count together; no table can hold it."""

DISAGREE = "rows of the table disagree"
"""Reason of refusal of a scan whose rows contradict each other."""

Repeated = Literal["refuse", "agree", "majority", "any"]
Row = tuple[str | None, ...]


class ScanTable:
    """Chosen columns of a table, reached by the text of one or more key columns.

    Values are interned, because a column such as a split has few different ones.

    Args:
        path: a CSV file, gzipped or not, or a Parquet file; or several with the same columns.
        keys: the columns that name a row; their texts are joined by `between`.
        columns: the columns to keep, or for each the spellings its name may have (the first names it).
        field: manifest key that named the table, for messages.
        encoding: character set of a CSV.
        delimiter: what stands between the cells of a CSV.
        strip_prefix: taken off the start of the key text.
        key_of: gives the key of what is left of the text; without it, all of it.
        repeated: what several rows of one key mean.
        pooled: columns to which `majority` and `any` apply; in all others the rows must agree.
        between: joins the texts of several key columns.

    Raises:
        ManifestError: a column is missing.
        DataError: the file is missing or not a table, or a key stands twice where that is refused.
    """

    def __init__(
        self,
        path: Path | Sequence[Path],
        keys: Sequence[str],
        columns: Sequence[str | tuple[str, ...]],
        *,
        field: str,
        encoding: str = "utf-8",
        delimiter: str = ",",
        strip_prefix: Sequence[str] = (),
        key_of: Callable[[str], str] | None = None,
        repeated: Repeated = "refuse",
        pooled: Collection[str] = (),
        between: str = "/",
    ) -> None:
        wanted = {
            spelled[0]: spelled
            for spelled in ((column,) if isinstance(column, str) else column for column in columns)
        }
        self.columns: tuple[str, ...] = tuple(wanted)
        self.rows: dict[str, Row] = {}
        self._places = {name: place for place, name in enumerate(self.columns)}
        found = [(key,) for key in keys] + list(wanted.values())
        doubled: dict[str, list[Row]] = {}
        paths = [path] if isinstance(path, Path) else path
        reads = [
            read_table(
                each,
                found,
                field=field if len(paths) == 1 else f"{field}.path.{number}",
                encoding=encoding,
                delimiter=delimiter,
            )
            for number, each in enumerate(paths)
        ]
        for number, cells in itertools.chain.from_iterable(reads):
            if len(self.rows) > MAX_ROWS:
                raise DataError("the tables are too large", field=field, remedy="Split the cohort.")
            key = _stripped(between.join(cells[: len(keys)]), strip_prefix)
            if key_of is not None:
                key = key_of(key)
            row = tuple(map(sys.intern, cells[len(keys) :]))
            first = self.rows.setdefault(key, row)
            if first is not row:
                if repeated == "refuse":
                    raise DataError(
                        f"line {number} names a scan that an earlier line named",
                        field=field,
                        remedy="Keep one, or say with `repeated` what several rows mean.",
                    )
                doubled.setdefault(key, [first]).append(row)
        for key, rows in doubled.items():
            self.rows[key] = self._merged(rows, repeated, pooled)

    def cell(self, key: str, column: str) -> str | None:
        """Return a cell; None if the row, or its partner in a joined table, is absent."""
        row = self.rows.get(key)
        return row[self._places[column]] if row is not None else None

    def join(self, other: ScanTable, named: Mapping[str, str], by: Sequence[str] = ()) -> None:
        """Take over columns of `other`, row by row; a row without partner gets None.

        Args:
            other: the other table.
            named: new name -> column of `other`.
            by: columns of this table that hold the other's key, or none: the same key.
        """
        at = [self._places[column] for column in by]
        taken = [other._places[column] for column in named.values()]
        blank: Row = (None,) * len(taken)
        for key, row in self.rows.items():
            wanted = SEVERAL.join(row[place] or "" for place in at) if at else key
            partner = other.rows.get(wanted)
            self.rows[key] = row + (tuple(partner[place] for place in taken) if partner else blank)
        self.columns = (*self.columns, *named)
        self._places = {name: place for place, name in enumerate(self.columns)}

    def _merged(self, rows: list[Row], repeated: Repeated, pooled: Collection[str]) -> Row:
        merged: list[str | None] = []
        for name, cells in zip(self.columns, zip(*rows, strict=True), strict=True):
            ranked = Counter(cells).most_common()
            if len(ranked) == 1 or (
                repeated == "majority" and name in pooled and ranked[0][1] * 2 > len(cells)
            ):
                merged.append(ranked[0][0])
            elif repeated == "any" and name in pooled:
                merged.append(SEVERAL.join(text for text, _ in ranked if text is not None))
            else:
                merged.append(CONFLICT)
        return tuple(merged)


def _stripped(text: str, prefixes: Sequence[str]) -> str:
    for prefix in prefixes:
        if text.startswith(prefix):
            return text[len(prefix) :]
    return text
