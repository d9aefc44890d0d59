"""Splits header values into pieces that may occur elsewhere: names, lines, readable runs."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

from pipeline.residual.values.dates import find_date
from pipeline.residual.values.source_values import DATE, NAME, TEXT, TIME, Piece
from pipeline.residual.values.text_parts import number_pieces

MAX_PIECE = 128
"""Characters of one piece: a longer text is split into lines and sections."""

MAX_PIECES = 10_000
"""Pieces taken from one element."""

MAX_BYTES = 2**20
"""Bytes of an element of unknown meaning that are searched for text."""

_PARTS = re.compile(r"[\^=\s]+")
_RAW = re.compile(rb"[\x20-\x7e\x80-\xff]{4,}")
_WIDE = re.compile(rb"(?:[\x20-\x7e]\x00){4,}")
_BREAKS = re.compile(r"[|\\^;=\t]+")
_NORDIC = str.maketrans({"ø": "o", "Ø": "O", "ł": "l", "Ł": "L", "đ": "d", "Đ": "D", "ß": "ss", "æ": "ae"})


def name_pieces(attribute: str, text: str) -> Iterator[Piece]:
    """Yield a person name (PS3.5 6.2, VR PN) as a whole, its groups, its parts and its usual other forms."""
    yield Piece(attribute, NAME, text)
    for group in text.split("="):
        yield Piece(attribute, NAME, group.rstrip("^ "))
        parts = [part for part in group.split("^")[:2] if part.strip()]
        if len(parts) == 2:
            family, given = (part.strip() for part in parts)
            for form in (f"{family} {given}", f"{given} {family}", f"{family}, {given}", f"{family}_{given}"):
                yield Piece(attribute, NAME, form)
                yield Piece(attribute, NAME, folded(form))
        for part in _PARTS.split(group):
            yield Piece(attribute, NAME, part)
            yield Piece(attribute, NAME, folded(part))


def text_pieces(attribute: str, text: str, kind: str = TEXT) -> Iterator[Piece]:
    """Yield a text (a long one in lines and sections of 128 characters) and its identifying parts."""
    text = text.strip(" \0\r\n")
    if len(text) <= MAX_PIECE and "\n" not in text:
        yield Piece(attribute, kind, text)
    else:
        for line in text.splitlines()[:MAX_PIECES]:
            stripped = line.strip()
            for start in range(0, len(stripped), MAX_PIECE):
                yield Piece(attribute, kind, stripped[start : start + MAX_PIECE])
    yield from date_pieces(attribute, text[:32])
    yield from number_pieces(attribute, text)


def date_pieces(attribute: str, text: str) -> Iterator[Piece]:
    """Yield the day at the start of a text, if there is one."""
    if day := find_date(text):
        yield Piece(attribute, DATE, day)


def moment_pieces(attribute: str, vr: str, text: str) -> Iterator[Piece]:
    """Yield a DICOM date, time or date-time (VR DA, TM, DT).

    A time of day without a fraction of a second is one of 86,400, which logs and counts contain by chance.
    """
    text = text.strip(" \0")
    if vr == "TM":
        fraction = text.partition(".")[2].rstrip("0")
        few = "" if len(fraction) >= 2 else "time of day without fraction"
        yield Piece(attribute, TIME, text, few)
        return
    if not find_date(text):
        words = any(letter.isalpha() for letter in text)
        yield Piece(attribute, TEXT, text, "placeholder" if text and not words else "")
        return
    yield from date_pieces(attribute, text)
    if vr == "DT" and len(text) > 8:
        yield Piece(attribute, TIME, text)


def byte_pieces(attribute: str, data: bytes) -> Iterator[Piece]:
    """Yield the readable runs in bytes of unknown meaning, whole and split at usual separators."""
    found = 0
    for raw in _raw_runs(data[:MAX_BYTES]):
        for piece in (raw, *_BREAKS.split(raw)):
            if piece != raw or len(raw) <= MAX_PIECE:
                yield from text_pieces(attribute, piece)
            found += 1
            if found >= MAX_PIECES:
                return


def folded(text: str) -> str:
    """Return the ASCII form of a Latin text, as in file names; empty if it equals the text."""
    plain = unicodedata.normalize("NFKD", text.translate(_NORDIC)).encode("ascii", "ignore").decode()
    return plain if plain != text and len(plain) >= len(text) - 1 else ""


def _raw_runs(data: bytes) -> Iterator[str]:
    for match in _RAW.finditer(data):
        run = match.group()
        try:
            yield run.decode("utf-8").strip()
        except UnicodeDecodeError:
            text = run.decode("latin-1").strip()
            # Noise has as many bytes beyond ASCII as within it.
            if sum(letter.isascii() for letter in text) >= 0.7 * len(text):
                yield text
    for match in _WIDE.finditer(data):
        yield match.group().decode("utf-16-le").strip()
