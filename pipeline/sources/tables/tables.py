"""Tables of scans: selected columns by key, joins, and the merging of several rows of one scan."""

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
"""Cell of a column in which the rows of one scan disagree; no table can contain it."""

SEVERAL = "\x1f"
"""Separator of the cells of several rows that count together; no table can contain it."""

DISAGREE = "rows of the table disagree"
"""Reason of refusal of a scan whose rows disagree."""

Repeated = Literal["refuse", "agree", "majority", "any"]
Row = tuple[str | None, ...]


class ScanTable:
    """Selected columns of a table, with one or more key columns.

    Values are interned, because a column such as a split has few distinct ones.

    Args:
        path: a CSV file, gzipped or not, a Parquet file, or several files with the same columns.
        keys: the key columns of a row; their texts are joined by `between`.
        columns: the columns to keep, each as its name or as the possible spellings (the first is the name).
        field: manifest key of the table, for error messages.
        encoding: character set of a CSV.
        delimiter: delimiter of the cells of a CSV.
        strip_prefix: prefixes to remove from the key text; the first that matches is removed.
        key_of: function from the remaining text to the key; by default, the text is the key.
        repeated: treatment of several rows with one key, see `TableFile`.
        pooled: columns to which `majority` and `any` apply; in all others the rows must agree.
        between: separator of the texts of several key columns.

    Raises:
        ManifestError: a column is missing.
        DataError: a file is missing or not a table, or a key occurs twice and `repeated` is `refuse`.
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
        spellings = [(key,) for key in keys] + list(wanted.values())
        repeated_rows: dict[str, list[Row]] = {}
        paths = [path] if isinstance(path, Path) else path
        reads = [
            read_table(
                each,
                spellings,
                field=field if len(paths) == 1 else f"{field}.path.{number}",
                encoding=encoding,
                delimiter=delimiter,
            )
            for number, each in enumerate(paths)
        ]
        for number, cells in itertools.chain.from_iterable(reads):
            if len(self.rows) > MAX_ROWS:
                raise DataError(f"more than {MAX_ROWS} rows", field=field, remedy="Split the tables.")
            key = _stripped(between.join(cells[: len(keys)]), strip_prefix)
            if key_of is not None:
                key = key_of(key)
            row = tuple(map(sys.intern, cells[len(keys) :]))
            first = self.rows.setdefault(key, row)
            if first is not row:
                if repeated == "refuse":
                    raise DataError(
                        f"line {number} has the same key as an earlier line",
                        field=field,
                        remedy="Keep one of the lines, or set `repeated` in the manifest.",
                    )
                repeated_rows.setdefault(key, [first]).append(row)
        for key, rows in repeated_rows.items():
            self.rows[key] = self._merged(rows, repeated, pooled)

    def cell(self, key: str, column: str) -> str | None:
        """Return a cell; None if the row, or its partner in a joined table, does not exist."""
        row = self.rows.get(key)
        return row[self._places[column]] if row is not None else None

    def join(self, other: ScanTable, named: Mapping[str, str], by: Sequence[str] = ()) -> None:
        """Add columns of `other`; they are None in rows without a partner.

        Args:
            other: the other table.
            named: new column name -> column of `other`.
            by: columns of this table with the keys of `other`; empty if both tables have the same keys.
        """
        key_places = [self._places[column] for column in by]
        added = [other._places[column] for column in named.values()]
        blank: Row = (None,) * len(added)
        for key, row in self.rows.items():
            wanted = SEVERAL.join(row[place] or "" for place in key_places) if by else key
            partner = other.rows.get(wanted)
            self.rows[key] = row + (tuple(partner[place] for place in added) if partner else blank)
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
