"""Distinguishes occurrences of a value from the same bytes by chance, in digests, decimals, words and noise.

A run contains millions of meaningless digits: sha256 digests, decimal fractions, random UIDs. An eight-digit
date of birth occurs among them sooner or later; a four-letter name occurs in any compressed image and within
ordinary words. A hit on a short value therefore counts only if it is delimited; a hit on a long value always
counts.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import pairwise

from pipeline.residual.search.counters import is_counter

MIN_BYTES_WHEN_DECODED = 8
"""Smallest pattern, in bytes, that counts where escapes were decoded that also occur in noise: base64 and
hexadecimal digits everywhere, other escapes outside of text."""

MIN_BYTES_WHEN_COMPRESSED = 9
"""Smallest pattern, in bytes, that counts in the raw bytes of a compressed file that is also unpacked."""

_MAX_NUMBER = 14
_MAX_SHORT = 7
_DATE, _DATE_TIMES = 8, (12, 14)
_HEX = frozenset(b"0123456789abcdefABCDEF")
_HEX_LETTERS = frozenset(b"abcdefABCDEF")
_DIGITS = frozenset(b"0123456789")
_DIGEST = 12
_DIGEST_SHARE, _LETTERS = 0.75, 4
_REACH = 64
_UID = re.compile(rb"[0-9]+(?:\.[0-9]+)+")
_UUID = re.compile(rb"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_DECIMAL = re.compile(rb"[-+]?(?:[0-9]{1,5}\.[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+")
_TEXT_OPENS, _TEXT_CLOSES = re.compile(rb"(?:\x1f|(?<!=)[\"'])$"), re.compile(rb"^[\x1f\"']")
_WIDTHS = (4, 2)
_FRACTION = re.compile(rb"(?:^|[^0-9.])[0-9]{1,6}\.$")
_CONTEXT = 16
_TEXT_SHARE = 0.75
_MAX_LOST = 6
_TEXT = frozenset([0, 9, 10, 13, *range(32, 127)])


def counts_as_hit(data: bytes, start: int, end: int) -> bool:
    """Return whether `data[start:end]`, which equals a searched pattern, is more than a coincidence.

    - A run of one character, or of successive characters (`012345`, as in palettes), must not continue beyond
      the pattern.
    - A number of at most 14 digits must not be part of a longer number, of a decimal fraction, of a run of at
      least 12 hexadecimal digits, of mostly hexadecimal digits or of a UUID, and must not number the entries
      of a list or the rows of a table. A date may be the start of a date-time of 12 or 14 digits.
    - A decimal number (`0.75`) counts only in quotes and as a cell of a column of texts.
    - A UID must not be part of a longer number (a longer UID that starts with it counts).
    - A pattern of less than 8 bytes must be a separate word within text, and not part of a digest.

    ASCII in UTF-16 and UTF-32 is judged by the text around it; other patterns with zero bytes count.
    """
    pattern = data[start:end]
    if 0 in pattern:
        narrow = _narrowed(data, start, end)
        return narrow is None or counts_as_hit(*narrow)
    if _runs_on(data, start, end):
        return False
    for is_such, stands_by_itself in _JUDGES:
        if is_such(pattern):
            return stands_by_itself(data, start, end)
    return True


def counts_by_place(text: str) -> bool:
    """Return whether a value counts only in some contexts: a decimal number, or a run of one character."""
    return len(set(text)) == 1 or _DECIMAL.fullmatch(text.encode("utf-8", "surrogatepass")) is not None


def _narrowed(data: bytes, start: int, end: int) -> tuple[bytes, int, int] | None:
    """Return ASCII in UTF-16 or UTF-32, with its context in the same width, as single bytes."""
    pattern = data[start:end]
    for width in _WIDTHS:
        for place in (0, width - 1):
            narrow = pattern[place::width]
            if len(pattern) % width or 0 in narrow or pattern.count(0) != len(narrow) * (width - 1):
                continue
            first = last = 0
            while first < _REACH and _is_wide(data, start - (first + 1) * width, width, place):
                first += 1
            while last < _REACH and _is_wide(data, end + last * width, width, place):
                last += 1
            around = data[start - first * width : end + last * width]
            return around[place::width], first, first + len(narrow)
    return None


def _is_wide(data: bytes, at: int, width: int, place: int) -> bool:
    unit = data[at : at + width] if at >= 0 else b""
    return len(unit) == width and unit[place] != 0 and unit.count(0) == width - 1


def _runs_on(data: bytes, start: int, end: int) -> bool:
    """Return whether bytes with a constant step (0, 1 or -1) continue with this step on either side."""
    step = data[start + 1] - data[start]
    if abs(step) > 1 or any(b - a != step for a, b in pairwise(data[start:end])):
        return False
    before, after = data[start - 1] if start else -2, data[end] if end < len(data) else -2
    return before == data[start] - step or after == data[end - 1] + step


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
    return (
        not _in_digest(data, start, stop)
        and not _in_uuid(data, start, stop)
        and not is_counter(data, start, end)
    )


def _in_uuid(data: bytes, start: int, end: int) -> bool:
    left = max(start - _REACH, 0)
    return any(
        left + m.start() <= start and left + m.end() >= end for m in _UUID.finditer(data[left : end + _REACH])
    )


def _in_digest(data: bytes, start: int, end: int) -> bool:
    """Return whether hexadecimal digits are part of a longer run, or of one that a compressor has cut."""
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
    # Non-ASCII UTF-8, which may be cut within a character on either side.
    lost = sum(len(side) - len(side.decode("utf-8", "ignore").encode()) for side in around)
    return lost <= _MAX_LOST


def _own_decimal(data: bytes, start: int, end: int) -> bool:
    return bool(
        _TEXT_OPENS.search(data[max(start - 2, 0) : start]) and _TEXT_CLOSES.search(data[end : end + 1])
    )


def _own_uid(data: bytes, start: int, end: int) -> bool:
    return not (data[start - 1 : start].isdigit() and start) and not data[end : end + 1].isdigit()


def _own_short(data: bytes, start: int, end: int) -> bool:
    spelled = _HEX.issuperset(data[start:end]) and _in_digest(data, start, end)
    return not spelled and _own_word(data, start, end) and _within_text(data, start, end)


_JUDGES: tuple[tuple[Callable[[bytes], object], Callable[[bytes, int, int], bool]], ...] = (
    (lambda pattern: len(pattern) <= _MAX_NUMBER and pattern.isdigit(), _own_number),
    (_DECIMAL.fullmatch, _own_decimal),
    (_UID.fullmatch, _own_uid),
    (lambda pattern: len(pattern) <= _MAX_SHORT, _own_short),
)
