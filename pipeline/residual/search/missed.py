"""Parts of a source that could not be read, whose values are unknown; and reading of JSON."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator

from pipeline.errors import ScanRefusedError
from pipeline.residual.search.texts import text_pieces
from pipeline.residual.values.source_values import IDENTIFIER, FileValues, Piece
from pipeline.sources.stores.base import CLOSED, FOLDER_LINK, INNER_LINK, LINK, NO_FILE, Entry

NO_CONTENT = frozenset({CLOSED, FOLDER_LINK, INNER_LINK, LINK, NO_FILE})
"""Entries that are not files: they have a name, but no bytes of their own."""

_UNKNOWN = {CLOSED, FOLDER_LINK}
"""Entries whose contents are not listed elsewhere."""

_NOTHING = {"empty file"}
_CLUTTER = re.compile(r"(?:.*/)?(?:\.ds_store|thumbs\.db|desktop\.ini|\._[^/]*)", re.IGNORECASE)
"""Files that operating systems leave in a folder: they contain the names of its files, which are known."""

_ID_KEY = re.compile(
    r"patient|subject|person|name|file|path|birth|mrn|accession|study|\buid|\bid\b|_id\b", re.IGNORECASE
)


class Missed:
    """Files that could not be read.

    Attributes:
        counts: reason -> number of files.
        unread: name (identifying) -> reason, for files that may contain a value.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.unread: dict[str, str] = {}

    def add(self, name: str, reason: str) -> None:
        """Record a file that yielded no values."""
        self.counts[reason] += 1
        if reason not in _NOTHING and not _CLUTTER.fullmatch(name):
            self.unread[name] = reason

    def behind(self, entry: Entry, prefix: str) -> None:
        """Record an entry that contains files which are not listed."""
        if entry.skipped in _UNKNOWN:
            self.add(prefix + entry.name, entry.skipped)


def json_pieces(data: bytes) -> Iterator[Piece]:
    """Yield the texts and numbers in JSON under keys whose names refer to patients, files, names or ids.

    Raises:
        ScanRefusedError: not a readable JSON file.
    """
    try:
        waiting: list[tuple[str, object]] = [("", json.loads(data.decode("utf-8-sig")))]
    except (ValueError, RecursionError) as error:
        raise ScanRefusedError("not a readable JSON file") from error
    while waiting:
        key, body = waiting.pop()
        if isinstance(body, dict):
            waiting += [
                (name if not _ID_KEY.search(key) else f"{key} {name}", inner) for name, inner in body.items()
            ]
        elif isinstance(body, list):
            waiting += [(key, inner) for inner in body]
        elif isinstance(body, str | int) and _ID_KEY.search(key):
            yield from text_pieces("JSON text", str(body), IDENTIFIER)


JSON = FileValues(json_pieces, lambda data, name: name.lower().endswith(".json"))
