"""A scan's name and row of the table, as input to the rules for labels, parts and attributes."""

from __future__ import annotations

import re
from collections.abc import Callable

from pipeline.manifest.table_rules import Match, TableRule
from pipeline.sources.tables.tables import CONFLICT, ScanTable

_DOUBLE = (".nii.gz", ".dcm.gz")


def file_key(name: str, match: Match) -> str:
    """Return the key of a file in a table or list.

    Args:
        name: relative name of the file, with `/` between its parts.
        match: form of the key: `path` for the name, `name` for its last part, `stem` for that without ending.
    """
    if match == "path":
        return name
    last = name.rpartition("/")[2]
    if match == "name":
        return last
    for ending in _DOUBLE:
        if last.lower().endswith(ending):
            return last[: -len(ending)]
    return last.rpartition(".")[0] or last


def key_finder(table: TableRule | None) -> Callable[[str], str]:
    """Return a function from a file name, or a cell of the file column, to the key in a source's table."""
    if table is None or table.pattern is None:
        match: Match = table.match if table is not None else "path"
        return lambda name: file_key(name, match)
    search = re.compile(table.pattern).search
    return lambda text: (found.group(1) or text) if (found := search(text)) else text


def folder_of(name: str, position: int) -> str:
    """Return the folder at this position of a name (0 first, -1 last), or an empty text if there is none."""
    folders = name.split("/")[:-1]
    return folders[position] if -len(folders) <= position < len(folders) else ""


class ScanRow:
    """A file and its cells.

    Attributes:
        name: relative name of the file. Identifying: never written or logged.
        known: whether the table has a row for it; True without a table.
    """

    __slots__ = ("_key", "_table", "known", "name")

    def __init__(self, table: ScanTable | None, name: str, key: str) -> None:
        self._table, self._key, self.name = table, key, name
        self.known = table is None or key in table.rows

    def cell(self, column: str | None) -> str | None:
        """Return a cell; None without a row, `CONFLICT` if the scan's rows disagree."""
        return self._table.cell(self._key, column) if self._table is not None and column else None

    def text(self, column: str | None) -> str:
        """Return a cell; an empty text without a row or if the scan's rows disagree."""
        found = self.cell(column)
        return found if found and found != CONFLICT else ""
