"""Searches a buffer for very many byte strings at once."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

_BLOCK_BYTES = 4 * 2**20
_MIN_TABLE_BITS, _MAX_TABLE_BITS = 20, 26
_TABLE_ROOM_BITS = 5
_MULTIPLIER = {4: np.uint32(0x9E3779B1), 8: np.uint64(0x9E3779B97F4A7C15)}

Accept = Callable[[bytes, int, int], bool]
"""(buffer, start, end) -> whether these bytes, which equal a pattern, count as a hit."""


class Matcher:
    """Finds which of many patterns occur in a buffer, at a cost nearly independent of their number.

    The last 8 bytes of a pattern (4 of a short one) are its anchor. Every window of the buffer is looked up
    in a bit table of hashed anchors, and the few that pass are compared exactly. Only then is the text before
    them looked up, once for each length of the patterns with this anchor. This is the first step of Wu and
    Manber's multi-pattern search, vectorised.

    Args:
        patterns: byte strings of at least 4 bytes -> owners that are returned on a hit; not copied.
        accept: called for every occurrence; None accepts all.
    """

    def __init__(self, patterns: Mapping[bytes, Collection[int]], accept: Accept | None = None) -> None:
        self._owners = patterns
        self._accept = accept
        self._longest = max(map(len, self._owners), default=0)
        if min(map(len, self._owners), default=4) < 4:
            raise ValueError("patterns must have at least 4 bytes")
        self._anchors: list[_Anchors] = []
        for width, wanted in ((4, lambda size: size < 8), (8, lambda size: size >= 8)):
            group = [pattern for pattern in self._owners if wanted(len(pattern))]
            if group:
                self._anchors.append(_Anchors(group, width))

    def find(self, data: bytes) -> dict[int, bytes]:
        """Return {owner: one of its patterns that occurs in `data`}."""
        found: dict[int, bytes] = {}
        overlap = self._longest - 1
        for start in range(0, max(len(data), 1), _BLOCK_BYTES):
            begin = max(start - overlap, 0)
            stop = min(start + _BLOCK_BYTES, len(data))
            for anchors in self._anchors:
                for end, lengths in anchors.hits(data, begin, stop):
                    self._compare(data, begin, end, lengths, found)
        return found

    def _compare(
        self, data: bytes, begin: int, end: int, lengths: tuple[int, ...], found: dict[int, bytes]
    ) -> None:
        for length in lengths:
            if end - length < begin:
                return
            pattern = data[end - length : end]
            owners = self._owners.get(pattern)
            if owners is None or all(owner in found for owner in owners):
                continue
            if self._accept is None or self._accept(data, end - length, end):
                for owner in owners:
                    found.setdefault(owner, pattern)


class _Anchors:
    """The last bytes of all patterns of at least `width` bytes, sorted, with a bit table of their hashes."""

    def __init__(self, patterns: list[bytes], width: int) -> None:
        self._width = width
        tails = np.frombuffer(b"".join(pattern[-width:] for pattern in patterns), dtype=f"<u{width}")
        lengths = np.fromiter(map(len, patterns), dtype=np.int64, count=len(patterns))
        order = np.lexsort((lengths, tails))
        tails, lengths = tails[order], lengths[order]
        self._keys, starts = np.unique(tails, return_index=True)
        kinds: dict[tuple[int, ...], int] = defaultdict(lambda: len(kinds))
        stops = np.append(starts[1:], len(tails)).tolist()
        sizes = lengths.tolist()
        # Few different sets of lengths exist, so each anchor holds the number of its set.
        self._kind = np.array(
            [
                kinds[tuple(dict.fromkeys(sizes[start:stop]))]
                for start, stop in zip(starts.tolist(), stops, strict=True)
            ],
            dtype=np.uint32,
        )
        self._lengths = list(kinds)
        wanted = len(self._keys).bit_length() + _TABLE_ROOM_BITS
        self._bits = min(max(wanted, _MIN_TABLE_BITS), _MAX_TABLE_BITS)
        self._table = np.zeros(1 << self._bits, dtype=bool)
        self._table[self._hashed(self._keys)] = True

    def hits(self, data: bytes, begin: int, stop: int) -> list[tuple[int, tuple[int, ...]]]:
        """Return (end, lengths of the patterns to compare) of each anchor within `data[begin:stop]`."""
        width, found = self._width, []
        for shift in range(width):
            count = (stop - begin - shift) // width
            if count <= 0:
                break
            keys = np.frombuffer(data, dtype=f"<u{width}", count=count, offset=begin + shift)
            near = np.flatnonzero(self._table[self._hashed(keys)])
            wanted = keys[near]
            at = np.minimum(np.searchsorted(self._keys, wanted), len(self._keys) - 1)
            exact = self._keys[at] == wanted
            ends = begin + shift + width + near[exact] * width
            kinds = self._kind[at[exact]]
            found += [
                (end, self._lengths[kind]) for end, kind in zip(ends.tolist(), kinds.tolist(), strict=True)
            ]
        return found

    def _hashed(self, keys: npt.NDArray[Any]) -> npt.NDArray[Any]:
        mixed: npt.NDArray[Any] = keys * _MULTIPLIER[self._width]
        return mixed >> keys.dtype.type(8 * self._width - self._bits)
