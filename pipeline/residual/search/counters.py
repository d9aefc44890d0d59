"""Recognises numbers that count rows (0, 1, 2, ...) in a list or column: they are positions, not ids."""

from __future__ import annotations

import functools
import re
from itertools import pairwise

import numpy as np

from pipeline.arrays import Bools, Ints

_MAX_DIGITS = 8
_MAX_TABLE_BYTES = 64 * 2**20
_MAX_LINE_BYTES = 4096
_BETWEEN = re.compile(rb"(?<![0-9.])([0-9]{1,8})([\s,;]{1,40})$")
_REACH = 64
_SAMPLES = 64
_NUMBER = re.compile(rb"[0-9]{1,8}")


class IndexColumn:
    """Recognises, block by block, which cells of a column of integers count its rows from 0 or 1.

    A column may restart its count (0, 1, 2, 0, 1, 2); a number that breaks the count is not part of it.
    """

    def __init__(self) -> None:
        self._last, self._counting = -1, False

    def counts(self, values: Ints) -> Bools:
        """Return whether each of the next cells is part of a count."""
        if not len(values):
            return np.zeros(0, dtype=bool)
        previous = np.concatenate(([self._last], values[:-1]))
        opens = values != previous + 1
        first = bool(opens[0])
        opens[0] = True
        starts = np.flatnonzero(opens)
        counting = (values[starts] == 0) | (values[starts] == 1)
        if not first:
            counting[0] = self._counting or counting[0]
        member = np.repeat(counting, np.diff(starts, append=len(values)))
        self._last, self._counting = int(values[-1]), bool(member[-1])
        return member


def is_counter(data: bytes, start: int, end: int) -> bool:
    """Return whether the number `data[start:end]` is in a list or CSV column that counts from 0 or 1."""
    if end - start > _MAX_DIGITS or data[start] == ord("0"):
        return False
    return _in_list(data, start, end) or _in_csv_column(data, start)


def _in_list(data: bytes, start: int, end: int) -> bool:
    """Check some of the positions at which 0 (or 1), 1, 2, ... are if all of them precede this number."""
    value = int(data[start:end])
    before = _BETWEEN.search(data[max(start - _REACH, 0) : start])
    if before is None or int(before[1]) != value - 1:
        return False
    gap = before[2]
    for first in (0, 1):
        begin = start - (_digits(value) - _digits(first)) - (value - first) * len(gap)
        if begin < 0 or (begin and data[begin - 1 : begin].isdigit()):
            continue
        steps = {
            first,
            *range(max(first, value - _REACH), value),
            *range(first, value, value // _SAMPLES + 1),
        }
        places = ((n, begin + _digits(n) - _digits(first) + (n - first) * len(gap)) for n in sorted(steps))
        if all(data.startswith(b"%d%s" % (n, gap), place) for n, place in places):
            return True
    return False


def _digits(value: int) -> int:
    """Return the total number of digits of 0, 1, ..., value - 1."""
    total, size = min(value, 1), 1
    while 10 ** (size - 1) < value:
        total += size * (min(value, 10**size) - 10 ** (size - 1))
        size += 1
    return total


def _in_csv_column(data: bytes, start: int) -> bool:
    if len(data) > _MAX_TABLE_BYTES:
        return False
    line = data.rfind(b"\n", 0, start) + 1
    if start - line > _MAX_LINE_BYTES:
        return False
    delimiter = b"\t" if b"\t" in data[line:start] else b","
    return line in _counting_lines(data, data.count(delimiter, line, start), delimiter)


@functools.lru_cache(maxsize=8)
def _counting_lines(data: bytes, field: int, delimiter: bytes) -> frozenset[int]:
    """Return the starts of the lines whose field counts them."""
    starts: list[int] = []
    numbers: list[int] = []
    place = 0
    for line in data.split(b"\n"):
        cells = line.split(delimiter, field + 1)
        cell = cells[field].strip(b' "\r') if len(cells) > field else b""
        starts.append(place)
        numbers.append(int(cell) if _NUMBER.fullmatch(cell) else -2)
        place += len(line) + 1
    member = IndexColumn().counts(np.array(numbers, dtype=np.int64))
    neighbours = [False, *(a + 1 == b for a, b in pairwise(numbers)), False]
    return frozenset(
        start
        for place, (start, counted) in enumerate(zip(starts, member.tolist(), strict=True))
        if counted and (neighbours[place] or neighbours[place + 1])
    )
