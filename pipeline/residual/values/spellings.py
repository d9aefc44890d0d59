"""The byte strings by which one identifying value may stand in a file."""

from __future__ import annotations

import contextlib
import unicodedata

ENCODINGS = ("utf-8", "latin-1", "utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be")
"""UTF-32 is what numpy stores for its text arrays."""

MIN_LENGTH = 4
"""Shorter values ("M", an age) stand in every file by chance, so a hit would mean nothing."""

MIN_BYTES = 6
"""Bytes in UTF-8 of a value that is shorter but has beyond-ASCII characters, such as a Chinese surname."""

MIN_FOLDED_LENGTH = 6
"""Bytes from which upper and lower case may be mixed at will; shorter ones would hit compressed data."""


def is_too_short(value: str) -> bool:
    """Tell whether a value is too short for a hit to mean anything."""
    return len(value) < MIN_LENGTH and len(value.encode("utf-8", "surrogatepass")) < MIN_BYTES


def spellings(value: str) -> dict[bytes, str]:
    """Return {bytes: name of the encoding} for a value in its usual upper and lower case forms.

    Forms with an accent are given composed and decomposed (Unicode NFC and NFD). A value of ASCII that is
    long enough to be searched in any mixture of cases is given in lower case alone.
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
    """Return a text's bytes, none if it cannot be written so.

    Bytes of a file name that are no UTF-8 are surrogates in it (PEP 383). They may stand in a file as those
    bytes, or as the surrogates.
    """
    found: set[bytes] = set()
    for surrogates in ("strict",) if text.isascii() else ("surrogateescape", "surrogatepass"):
        with contextlib.suppress(UnicodeEncodeError):
            found.add(text.encode(encoding, surrogates))
    return found
