"""Tells a value that stands somewhere from the same bytes there by chance: digests, decimals, words, noise.

A run holds millions of digits that mean nothing: sha256 digests, decimal fractions, random UIDs. An eight
digit date of birth occurs among them sooner or later, a four letter name occurs in any compressed image and
within ordinary words. A hit on a short value therefore has to stand by itself; a long one always counts.
"""

from __future__ import annotations

import re

MIN_BYTES_WHEN_DECODED = 8
"""Bytes that a pattern needs to count where escapes were undone that any noise may seem to hold: base64 and
hexadecimal digits always, the others outside of text."""

MIN_BYTES_WHEN_COMPRESSED = 9
"""Bytes that a pattern needs to count in the raw bytes of a compressed file that is taken apart as well."""

_MAX_NUMBER = 14
_MAX_SHORT = 7
_DATE, _DATE_TIMES = 8, (12, 14)
_HEX = frozenset(b"0123456789abcdefABCDEF")
_HEX_LETTERS = frozenset(b"abcdefABCDEF")
_DIGITS = frozenset(b"0123456789")
_DIGEST = 16
_DIGEST_SHARE, _LETTERS = 0.75, 4
_REACH = 64
_UID = re.compile(rb"[0-9]+(?:\.[0-9]+)+")
_FRACTION = re.compile(rb"(?:^|[^0-9.])[0-9]{1,6}\.$")
_CONTEXT = 16
_TEXT_SHARE = 0.75
_MAX_LOST = 6
_TEXT = frozenset([0, 9, 10, 13, *range(32, 127)])


def counts_as_hit(data: bytes, start: int, end: int) -> bool:
    """Tell whether `data[start:end]`, which equals a wanted pattern, is more than a coincidence.

    - a number of at most 14 digits must not be part of a longer number, of a decimal fraction, of a run of
      at least 16 hexadecimal digits or of what is mostly such digits; a date may open a date-time of 12 or 14
      digits;
    - a UID must not be part of a longer number (a longer UID that begins with it counts);
    - a pattern under 8 bytes must be a word of its own, in the midst of text, and no part of a digest.

    Patterns in UTF-16 and UTF-32 hold zero bytes and always count.
    """
    pattern = data[start:end]
    if 0 in pattern:
        return True
    if len(pattern) <= _MAX_NUMBER and pattern.isdigit():
        return _own_number(data, start, end)
    if pattern[:1].isdigit() and _UID.fullmatch(pattern):
        return not (data[start - 1 : start].isdigit() and start) and not data[end : end + 1].isdigit()
    if len(pattern) <= _MAX_SHORT:
        spelled = _HEX.issuperset(pattern) and _in_digest(data, start, end)
        return not spelled and _own_word(data, start, end) and _within_text(data, start, end)
    return True


def _own_number(data: bytes, start: int, end: int) -> bool:
    if start and data[start - 1] in _DIGITS:
        return False
    left, stop = max(start - _REACH, 0), end
    while stop < min(end + _REACH, len(data)) and data[stop] in _DIGITS:
        stop += 1
    if stop > end and not (end - start == _DATE and stop - start in _DATE_TIMES):
        return False
    if _FRACTION.search(data[left:start]) and data[stop : stop + 1] != b".":
        return False
    return not _in_digest(data, start, stop)


def _in_digest(data: bytes, start: int, end: int) -> bool:
    """Tell whether hexadecimal digits belong to a longer run of them, or to one that a compressor has cut."""
    first, last = start, end
    while first > max(start - _REACH, 0) and data[first - 1] in _HEX:
        first -= 1
    while last < min(end + _REACH, len(data)) and data[last] in _HEX:
        last += 1
    if last - first >= _DIGEST and not _HEX_LETTERS.isdisjoint(data[first:last]):
        return True
    around = data[max(start - _CONTEXT, 0) : start] + data[end : end + _CONTEXT]
    digits, letters = (sum(byte in kind for byte in around) for kind in (_HEX, _HEX_LETTERS))
    return digits >= _DIGEST_SHARE * 2 * _CONTEXT and letters >= _LETTERS


def _own_word(data: bytes, start: int, end: int) -> bool:
    before, after = data[max(start - 1, 0) : start], data[end : end + 1]
    opens = not before.isalnum() or not data[start : start + 1].isalnum()
    return opens and (not after.isalnum() or not data[end - 1 : end].isalnum())


def _within_text(data: bytes, start: int, end: int) -> bool:
    around = data[max(start - _CONTEXT, 0) : start], data[end : end + _CONTEXT]
    readable = sum(byte in _TEXT for side in around for byte in side)
    if readable >= _TEXT_SHARE * sum(map(len, around)):
        return True
    # UTF-8 beyond ASCII, of which each side may be cut within a character.
    lost = sum(len(side) - len(side.decode("utf-8", "ignore").encode()) for side in around)
    return lost <= _MAX_LOST
