"""The byte strings by which one identifying value may stand in a file."""

from __future__ import annotations

import unicodedata

ENCODINGS = ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
"""UTF-32 is what numpy stores for its text arrays."""

MIN_LENGTH = 4
"""Shorter values ("M", an age) stand in every file by chance, so a hit would mean nothing."""

MIN_FOLDED_LENGTH = 6
"""Bytes from which upper and lower case may be mixed at will; shorter ones would hit compressed data."""


def spellings(value: str) -> dict[bytes, str]:
    """Return {bytes: name of the encoding} for a value in its usual upper and lower case forms.

    Forms with an accent are given composed and decomposed (Unicode NFC and NFD).
    """
    cased = {value, value.lower(), value.upper(), value.title(), value.casefold()}
    forms = {unicodedata.normalize(kind, text) for text in cased for kind in ("NFC", "NFD")} | cased
    found: dict[bytes, str] = {}
    for encoding in ENCODINGS:
        for form in sorted(forms):
            try:
                found.setdefault(form.encode(encoding), encoding)
            except UnicodeEncodeError:
                continue
    return found
