"""What of a source could not be read, so that nothing is known of the values in it; and how JSON is read."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator

from pipeline.errors import ScanRefusedError
from pipeline.residual.search.texts import text_pieces
from pipeline.residual.values.source_values import IDENTIFIER, Piece
from pipeline.sources.stores.base import CLOSED, FOLDER_LINK, INNER_LINK, LINK, NO_FILE, Entry

NO_CONTENT = frozenset({CLOSED, FOLDER_LINK, INNER_LINK, LINK, NO_FILE})
"""What is listed and is no file: it has a name, and no bytes of its own."""

_UNKNOWN = {CLOSED, FOLDER_LINK}
"""What lies behind these is listed nowhere else."""

_NOTHING = {"empty file"}
_CLUTTER = re.compile(r"(?:.*/)?(?:\.ds_store|thumbs\.db|desktop\.ini|\._[^/]*)", re.IGNORECASE)
"""Files that systems leave in a folder: they hold the names of its files, which are known."""

_ID_KEY = re.compile(
    r"patient|subject|person|name|file|path|birth|mrn|accession|study|\buid|\bid\b|_id\b", re.IGNORECASE
)


class Missed:
    """What could not be read.

    Attributes:
        counts: reason -> files.
        unread: name (identifying) -> reason, of those that may hold a value.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.unread: dict[str, str] = {}

    def add(self, name: str, reason: str) -> None:
        """Note a file that gave no values."""
        self.counts[reason] += 1
        if reason not in _NOTHING and not _CLUTTER.fullmatch(name):
            self.unread[name] = reason

    def behind(self, entry: Entry, prefix: str) -> None:
        """Note an entry behind which files lie that no listing names."""
        if entry.skipped in _UNKNOWN:
            self.add(prefix + entry.name, entry.skipped)


def json_pieces(data: bytes) -> Iterator[Piece]:
    """Yield the texts and numbers in JSON under keys that are called after patients, files, names or ids.

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
