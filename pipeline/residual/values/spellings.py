"""The byte strings as which an identifying value may be written in a file."""

from __future__ import annotations

import contextlib
import unicodedata

ENCODINGS = ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
"""Searched encodings; numpy stores text arrays as UTF-32."""

MIN_LENGTH = 4
"""Smallest length in characters: shorter values ("M", an age) occur in every file by chance."""

MIN_BYTES = 6
"""Smallest length in UTF-8 bytes of a shorter value with non-ASCII characters, such as a Chinese surname."""

MIN_FOLDED_LENGTH = 6
"""Smallest length at which case is ignored; shorter values would be found in compressed data by chance."""


def is_too_short(value: str) -> bool:
    """Return whether a value is too short for a hit to be evidence."""
    return len(value) < MIN_LENGTH and len(value.encode("utf-8", "surrogatepass")) < MIN_BYTES


def spellings(value: str) -> dict[bytes, str]:
    """Return {bytes: name of the encoding} for a value in its usual upper and lower case forms.

    Accented forms are given composed and decomposed (Unicode NFC and NFD). An ASCII value that is long enough
    to be searched without regard to case is given in lower case only.
    """
    if value.isascii() and len(value) >= MIN_FOLDED_LENGTH:
        forms = {value.lower()}
    else:
        cased = {value, value.lower(), value.upper(), value.title(), value.casefold()}
        forms = {unicodedata.normalize(kind, text) for text in cased for kind in ("NFC", "NFD")} | cased
    least = 4 if len(value) >= MIN_LENGTH else MIN_BYTES
    found: dict[bytes, str] = {}
    for encoding in ENCODINGS:
        for form in sorted(forms):
            for pattern in _encoded(form, encoding):
                if len(pattern) >= least:
                    found.setdefault(pattern, encoding)
    return found


def _encoded(text: str, encoding: str) -> set[bytes]:
    """Return the encoded forms of a text, none if it cannot be encoded.

    Bytes of a file name that are not UTF-8 are surrogates in the text (PEP 383). A file may contain them as
    these bytes, or as the surrogates.
    """
    found: set[bytes] = set()
    for surrogates in ("strict",) if text.isascii() else ("surrogateescape", "surrogatepass"):
        with contextlib.suppress(UnicodeEncodeError):
            found.add(text.encode(encoding, surrogates))
    return found
