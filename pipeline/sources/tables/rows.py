"""One scan's name and its row of the table, as the rules on labels, parts and attributes look at it."""

from __future__ import annotations

import re
from collections.abc import Callable

from pipeline.manifest.table_rules import Match, TableRule
from pipeline.sources.tables.tables import CONFLICT, ScanTable

_DOUBLE = (".nii.gz", ".dcm.gz")


def file_key(name: str, match: Match) -> str:
    """Return what a table or list that is matched by `match` holds for a file.

    Args:
        name: relative name of the file, with `/` between its parts.
        match: `path` for all of it, `name` for its last part, `stem` for that without its extension.
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
    """Return what gives a file's key in a source's table, and the key of what the file column holds."""
    if table is None or table.pattern is None:
        match: Match = table.match if table is not None else "path"
        return lambda name: file_key(name, match)
    search = re.compile(table.pattern).search
    return lambda text: (found.group(1) or text) if (found := search(text)) else text


def folder_of(name: str, position: int) -> str:
    """Return the folder at a position of a name (0 the first, -1 the last), empty if there is none."""
    folders = name.split("/")[:-1]
    return folders[position] if -len(folders) <= position < len(folders) else ""


class ScanRow:
    """A file's cells.

    Attributes:
        name: relative name of the file. Identifying: never written or logged.
        known: whether the table has a row for it; True without a table.
    """

    __slots__ = ("_key", "_table", "known", "name")

    def __init__(self, table: ScanTable | None, name: str, key: str) -> None:
        self._table, self._key, self.name = table, key, name
        self.known = table is None or key in table.rows

    def cell(self, column: str | None) -> str | None:
        """Return a cell, None without such a row; `CONFLICT` where several rows of the scan disagree."""
        return self._table.cell(self._key, column) if self._table is not None and column else None

    def text(self, column: str | None) -> str:
        """Return a cell, empty without such a row and where several rows disagree."""
        found = self.cell(column)
        return found if found and found != CONFLICT else ""
