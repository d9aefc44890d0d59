"""The distinct identifying values of a source, stored on disk for millions of values, read in batches."""

from __future__ import annotations

import re
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import NamedTuple, Self

from pipeline.errors import DataError
from pipeline.residual.allowlist import Harmless, stands_for_a_name
from pipeline.residual.search.own_texts import OwnTexts
from pipeline.residual.values.dates import date_spellings, find_date
from pipeline.residual.values.spellings import is_too_short

MAX_VALUES = 50_000_000
"""Largest number of values of one source: about 8 GB of temporary disk space."""

BATCH_VALUES = 250_000
"""Number of values searched in one pass over an output: about 0.5 GB of memory."""

_REMEMBERED = 200_000
_WRITE_ROWS = 10_000
_CACHE_KIB = 65_536
_MIN_NUMBER, _MIN_IDENTIFIER = 8, 6
_DAY = 8
_NUMBERS = re.compile(r"(?:[-+]?[0-9]*\.[0-9]+(?:[eE][-+]?[0-9]+)?(?:$|[\\,; ]+))+")
"""Only decimal fractions (a spacing, an orientation), which many scans share."""

NAME, IDENTIFIER, TEXT, UID, DATE, TIME, FILE_NAME = (
    "person name", "identifier", "text", "UID", "date", "time", "file name",
)  # fmt: skip
"""Kinds of value. An identifier is an id of a patient, an accession or the like."""


class Value(NamedTuple):
    """One value of the source. `text` is identifying and is never shown.

    Attributes:
        number: position among the values of the source, from 1.
        text: the value.
        attribute: where it was first found, for example `PatientName` or `file name`.
        kind: one of the kinds of this module.
    """

    number: int
    text: str
    attribute: str
    kind: str

    @property
    def texts(self) -> tuple[str, ...]:
        """The texts in which the value may be written; a date has several."""
        return date_spellings(self.text) if self.kind == DATE else (self.text,)


class Piece(NamedTuple):
    """A text read from a source, before it is judged.

    Attributes:
        attribute: attribute of the text in the source.
        kind: one of the kinds of this module.
        text: the text; may be empty if `left_out` is given.
        left_out: reason why the text does not count as identifying; empty if it may.
    """

    attribute: str
    kind: str
    text: str
    left_out: str = ""


@dataclass(frozen=True)
class FileValues:
    """How a kind of file is searched for what identifies somebody.

    Attributes:
        pieces: yields what the bytes of a file say; raises `ScanRefusedError` where they cannot be read.
        recognises: tells by a file's bytes and name whether it is one.
    """

    pieces: Callable[[bytes], Iterator[Piece]]
    recognises: Callable[[bytes, str], bool]


@dataclass(frozen=True)
class SourceFacts:
    """Facts about the source from which the values were collected.

    Attributes:
        files: number of files read.
        not_read: reason -> number of files that could not be read, whose values are not known.
        unread: name of each unread file that may contain a value -> reason. Identifying, never shown.
    """

    files: int
    not_read: dict[str, int]
    unread: dict[str, str] = field(default_factory=dict, repr=False)


class SourceValues:
    """The distinct values of a source, in an unnamed temporary database on disk.

    SQLite unlinks a temporary database as soon as it is open, so nothing is left behind however the process
    ends. Close it, or use it as a context manager.

    Args:
        harmless: texts that are not evidence.
        own: texts of the program and of the manifest, which are harmless where an output contains them
            unchanged.

    Attributes:
        own: as given.
        left_out: reason -> approximate number of distinct texts (a text found again after many others counts
            again).
        facts: facts about the source.
    """

    def __init__(self, harmless: Harmless, own: OwnTexts | None = None) -> None:
        self.own = own or OwnTexts()
        self.left_out: Counter[str] = Counter()
        self.facts = SourceFacts(0, {})
        self._harmless = harmless
        self._seen: set[int] = set()
        self._waiting: list[tuple[bytes, str, str]] = []
        self._base = sqlite3.connect("", isolation_level=None)
        self._base.execute("PRAGMA journal_mode=OFF")
        self._base.execute("PRAGMA synchronous=OFF")
        self._base.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")
        self._base.execute(
            "CREATE TABLE found"
            " (number INTEGER PRIMARY KEY, text BLOB NOT NULL UNIQUE, attribute TEXT, kind TEXT)"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Delete all values."""
        self._base.close()

    def add(self, pieces: Iterable[Piece]) -> None:
        """Add the identifying pieces, and count the others by reason."""
        for piece in pieces:
            text = piece.text.strip(" \0\t\r\n")
            if not text and not piece.left_out:
                continue
            key = hash((text, piece.left_out, piece.attribute if piece.left_out else ""))
            if key in self._seen:
                continue
            if len(self._seen) >= _REMEMBERED:
                self._seen.clear()
            self._seen.add(key)
            kind = DATE if len(text) == _DAY and find_date(text) == text else piece.kind
            reason = piece.left_out or self._reason(text, kind)
            if reason:
                self.left_out[reason] += 1
                continue
            self._waiting.append((text.encode("utf-8", "surrogatepass"), piece.attribute, kind))
            if len(self._waiting) >= _WRITE_ROWS:
                self._write()

    def __len__(self) -> int:
        self._write()
        return int(self._base.execute("SELECT count(*) FROM found").fetchone()[0])

    def counts(self) -> dict[str, int]:
        """Return the number of distinct values by kind."""
        self._write()
        rows = self._base.execute("SELECT kind, count(*) FROM found GROUP BY kind ORDER BY kind")
        return {kind: int(count) for kind, count in rows}

    def batches(self, size: int = BATCH_VALUES) -> Iterator[list[Value]]:
        """Yield all values in batches of at most `size`, in the order they were found."""
        self._write()
        last = 0
        while rows := self._base.execute(
            "SELECT number, text, attribute, kind FROM found WHERE number > ? ORDER BY number LIMIT ?",
            (last, size),
        ).fetchall():
            last = rows[-1][0]
            yield [_value(row) for row in rows]

    def pick(self, numbers: Iterable[int]) -> list[Value]:
        """Return the values of some positions (from 1)."""
        self._write()
        query = "SELECT number, text, attribute, kind FROM found WHERE number = ?"
        return [_value(self._base.execute(query, (number,)).fetchone()) for number in numbers]

    def _write(self) -> None:
        if not self._waiting:
            return
        self._base.execute("BEGIN")
        self._base.executemany(
            "INSERT OR IGNORE INTO found (text, attribute, kind) VALUES (?, ?, ?)", self._waiting
        )
        self._base.execute("COMMIT")
        self._waiting.clear()
        known = int(self._base.execute("SELECT coalesce(max(number), 0) FROM found").fetchone()[0])
        if known > MAX_VALUES:
            raise DataError(
                f"the source holds more than {MAX_VALUES:,} identifying values",
                field="--against",
                remedy="Verify against one part of the source at a time.",
            )

    def _reason(self, text: str, kind: str) -> str:
        """Return why a text is not evidence, or ""."""
        if is_too_short(text):
            return "too short"
        if kind in {DATE, UID, TIME}:
            return ""
        if text.isdigit():
            least = _MIN_IDENTIFIER if kind == IDENTIFIER else _MIN_NUMBER
            return "short number" if len(text) < least else "placeholder" if not text.strip("0") else ""
        if kind in {NAME, IDENTIFIER} and stands_for_a_name(text):
            return "placeholder"
        return self._reason_of_text(text, kind)

    def _reason_of_text(self, text: str, kind: str) -> str:
        if not any(letter.isalnum() for letter in text):
            return "placeholder"
        if kind == TEXT and _NUMBERS.fullmatch(text):
            return "number or age (IS, DS, AS)"
        known = {TEXT: self._harmless.holds, FILE_NAME: self._harmless.holds_name}.get(kind)
        return "harmless words" if known is not None and known(text) else ""


def _value(row: tuple[int, bytes, str, str]) -> Value:
    return Value(row[0], row[1].decode("utf-8", "surrogatepass"), row[2], row[3])
