"""CSV tables beside the scans: bounded, joined by file name, held compactly."""

from __future__ import annotations

import csv
import sys
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import DataError, ManifestError

MAX_TABLE_BYTES = 2 * 2**30
MAX_CELL = 10_000


class ScanTable:
    """Chosen columns of a CSV table, reached by the text of one or more key columns.

    Values are interned, because a column such as a split has few different ones.

    Args:
        path: the CSV file (UTF-8, header in the first line).
        keys: the columns that name a row; joined by a slash they must be unique.
        columns: the columns to keep.
        field: manifest key that named the table, for messages.

    Raises:
        ManifestError: a column is missing.
        DataError: the file is missing, not a table, or a key stands twice.
    """

    def __init__(self, path: Path, keys: Sequence[str], columns: Sequence[str], *, field: str) -> None:
        self.columns = tuple(dict.fromkeys(columns))
        self.rows: dict[str, tuple[str, ...]] = {}
        self._field = field
        if not path.is_file():
            raise DataError("no such table", field=field, value=str(path), remedy="Correct its path.")
        if path.stat().st_size > MAX_TABLE_BYTES:
            raise DataError("the table is too large", field=field, remedy="Split the cohort.")
        try:
            with path.open(encoding="utf-8-sig", newline="") as stream:
                self._read(csv.reader(stream), keys)
        except (UnicodeDecodeError, csv.Error, OSError) as error:
            raise DataError("not a readable UTF-8 CSV table", field=field, remedy="Correct it.") from error

    def _read(self, reader: object, keys: Sequence[str]) -> None:
        lines = iter(reader)  # type: ignore[call-overload]
        header = [name.strip() for name in next(lines, [])]
        for name in (*keys, *self.columns):
            if name not in header:
                raise ManifestError(
                    f"the table has no column {name!r}",
                    field=self._field,
                    remedy=f"It has: {', '.join(header)[:300]}.",
                )
        where_keys = [header.index(name) for name in keys]
        where = [header.index(name) for name in self.columns]
        for number, line in enumerate(lines, start=2):
            if not line:
                continue
            if len(line) < len(header):
                raise DataError(
                    f"line {number} has too few cells", field=self._field, remedy="Correct the table."
                )
            key = "/".join(line[position].strip() for position in where_keys)
            if key in self.rows:
                raise DataError(
                    f"line {number} names a scan that an earlier line named",
                    field=self._field,
                    remedy="Keep one.",
                )
            self.rows[key] = tuple(sys.intern(line[position].strip()[:MAX_CELL]) for position in where)

    def cell(self, key: str, column: str) -> str:
        """Return a cell, empty if the row is absent."""
        row = self.rows.get(key)
        return row[self.columns.index(column)] if row is not None else ""

    def join(self, other: ScanTable, names: Sequence[str]) -> None:
        """Take over all columns of `other` under `names`, row by row; a row without partner gets blanks."""
        self.columns = (*self.columns, *names)
        blank = ("",) * len(names)
        for key, row in self.rows.items():
            self.rows[key] = row + other.rows.get(key, blank)
