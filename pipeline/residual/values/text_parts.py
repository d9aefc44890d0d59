"""Parts of longer texts that are identifying by themselves: numbers, dates, streets, words.

The following parts of a text are searched for separately:

- numbers of at least 6 digits without leading zeros (`MRN-55015319` gives `55015319`), except those of UIDs,
  fractions and digests;
- telephone numbers of 7 to 15 digits, as written and as digits alone;
- dates, in all usual formats;
- streets with a house number, recognised by the usual words for a street in seven languages;
- in institutions, addresses and comments: words of at least 6 letters with a capital, except general ones
  (`Hospital`).

Other words of a comment, shorter numbers, words of other texts, and streets without a word for a street are
not searched for separately.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pipeline.residual.values.dates import find_date
from pipeline.residual.values.source_values import DATE, IDENTIFIER, TEXT, Piece

_MAX_TEXT = 100_000
_MAX_PARTS = 1000
_LONG_WORD = 6
_NUMBER = re.compile(r"(?<![\d.])\d{6,32}(?![\d]|\.\d)")
_LEAST_NUMBER = 6
_DIGEST = re.compile(r"(?=[0-9a-f]*[a-f])[0-9a-f]{12,}|(?=[0-9A-F]*[A-F])[0-9A-F]{12,}")
_PHONE = re.compile(r"(?<![\w.+])\+?\(?\d{1,5}\)?(?:[ /.-]{1,3}\(?\d{2,8}\)?){1,4}(?![\w]|\.\d)")
_DECIMAL = re.compile(r"\d+\.\d+")
_LEAST_PHONE, _MOST_PHONE = 7, 15
_DATE = re.compile(r"(?<!\d)(?:\d{4}[-./:]\d\d[-./:]\d\d|\d{1,2}[./-]\d{1,2}[./-]\d{4})(?!\d)")
_WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
_KINDS = r"(?:stra(?:ß|ss)e|str\.|weg|allee|platz|gasse|ring|damm|ufer|straat|laan|gatan|vägen|vej)"
_AFTER = r"(?:street|st\.?|road|rd\.?|avenue|ave\.?|lane|drive|court|boulevard|blvd\.?|way|close|terrace)"
_BEFORE = r"(?:rue|avenue|via|viale|piazza|calle|avenida|plaza|rua|praça)"
_HOUSE = r"\d{1,5}\s?[a-z]?"
_STREETS = (
    re.compile(rf"\b[^\W\d_][^\W\d_-]*(?:[ -][^\W\d_]+){{0,3}}?[ -]?{_KINDS}\s{_HOUSE}\b", re.IGNORECASE),
    re.compile(rf"\b{_HOUSE}\s(?:[^\W\d_]+[ -]){{1,3}}{_AFTER}(?!\w)", re.IGNORECASE),
    re.compile(
        rf"\b(?:\d{{1,5}}[ ,]{{1,2}})?{_BEFORE}(?: [^\W\d_]+){{1,4}}(?:[ ,]{{1,2}}\d{{1,5}})?\b",
        re.IGNORECASE,
    ),
)
_GENERAL = frozenset(
    ("hospital", "clinic", "clinics", "university", "medical", "medicine", "center", "centre", "radiology",
     "department", "institute", "general", "health", "healthcare", "imaging", "diagnostic", "regional",
     "community", "memorial", "national", "klinik", "kliniken", "klinikum", "krankenhaus", "radiologie",
     "universitätsklinikum", "institut", "praxis", "abteilung", "hôpital", "clinique", "hospitalier",
     "ospedale", "universidad", "universitario", "patient", "patientin", "street", "avenue", "strasse",
     "straße", "germany", "deutschland")
)  # fmt: skip


def number_pieces(attribute: str, text: str) -> Iterator[Piece]:
    """Yield the numbers, telephone numbers, dates and streets in a text that is not just a number."""
    text = text[:_MAX_TEXT]
    if text.isdigit() or not any(letter.isdigit() for letter in text):
        return
    dates = [match.span() for match in _DATE.finditer(text)]
    for start, end in dates[:_MAX_PARTS]:
        for day in _days(text[start:end]):
            yield Piece(attribute, DATE, day)
    digests = [match.span() for match in _DIGEST.finditer(text)]
    for match in list(_NUMBER.finditer(text))[:_MAX_PARTS]:
        # With fewer digits after leading zeros it is an index (000012), as in our own file names.
        if len(match.group().lstrip("0")) < _LEAST_NUMBER:
            continue
        if not any(start <= match.start() < end for start, end in digests):
            yield Piece(attribute, IDENTIFIER, match.group())
    for match in list(_PHONE.finditer(text))[:_MAX_PARTS]:
        digits = "".join(letter for letter in match.group() if letter.isdigit())
        taken = any(start <= match.start() < end for start, end in dates)
        taken |= _DECIMAL.fullmatch(match.group()) is not None
        if _LEAST_PHONE <= len(digits) <= _MOST_PHONE and not taken:
            yield Piece(attribute, IDENTIFIER, match.group().strip(" (/.-"))
            yield Piece(attribute, IDENTIFIER, digits)
    for street in _STREETS:
        for match in list(street.finditer(text))[:_MAX_PARTS]:
            yield Piece(attribute, TEXT, match.group().strip(" ,"))


def word_pieces(attribute: str, text: str) -> Iterator[Piece]:
    """Yield the long words with a capital in a text of more than one word."""
    words = _WORD.findall(text[:_MAX_TEXT])
    for word in words[:_MAX_PARTS] if len(words) > 1 else ():
        if len(word) >= _LONG_WORD and word != word.lower() and word.lower() not in _GENERAL:
            yield Piece(attribute, TEXT, word)


def _days(text: str) -> set[str]:
    """Return the possible days of a date in digits, with the day or the month first."""
    first, second, third = re.split(r"[-./:]", text)
    if len(first) == 4:
        return {found for found in [find_date(first + second + third)] if found}
    pairs = {(first, second), (second, first)}
    return {day for d, m in pairs if (day := find_date(f"{third}{m:0>2}{d:0>2}"))}
